# Where `cmake --install` and the wheel put what.
#
#   ECHION_AGENT_FOLDER             the agent's folder, from the program's: the program looks there
#   echion_install(target folder)   the program or library; its symbols beside it with
#                                   `--component debug`
include(GNUInstallDirs)

# In a wheel the command `echion` is the program itself. The agent lies beside it, which holds for
# every way to install a wheel: `pip install --target` leaves out files in `lib`.
if(SKBUILD)
  set(CMAKE_INSTALL_BINDIR ${SKBUILD_SCRIPTS_DIR})
  set(CMAKE_INSTALL_LIBDIR ${SKBUILD_SCRIPTS_DIR})
  set(CMAKE_INSTALL_DATADIR ${SKBUILD_DATA_DIR}/share)
  set(CMAKE_INSTALL_MANDIR ${SKBUILD_DATA_DIR}/share/man)
  set(ECHION_AGENT_FOLDER .)
else()
  file(RELATIVE_PATH ECHION_AGENT_FOLDER ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
endif()

function(echion_install target folder)
  install(TARGETS ${target} RUNTIME DESTINATION ${folder} COMPONENT program
                            LIBRARY DESTINATION ${folder} COMPONENT program)
  install(FILES $<TARGET_FILE:${target}>.debug DESTINATION ${folder} COMPONENT debug OPTIONAL
          EXCLUDE_FROM_ALL)
endfunction()
