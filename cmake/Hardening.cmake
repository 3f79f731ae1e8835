# What the compiler and the linker do against memory errors, and how the programs are stripped.
# tests/integration/test_hardening.py looks at the result.
#
#   ECHION_GUEST_HARDENING   flags of what may run inside the target. No _FORTIFY_SOURCE, whose
#                            functions bind a library to a recent C library, and no checks of
#                            libstdc++, which would have to come along.
#   ECHION_HOST_HARDENING    flags of the rest
#   echion_harden(target)    link options of a program or library, and the split of its symbols
include(CheckPIESupported)
check_pie_supported()

option(ECHION_PIE "Make echion position-independent (needs libunwind shared, or static with -fPIC)" ON)
option(ECHION_SPLIT_DEBUG "Strip the programs; their symbols go into FILE.debug beside them" ON)

set(ECHION_GUEST_HARDENING)
set(ECHION_HOST_HARDENING)
# Sanitizers and fuzzers check more, and do not go together with these.
if(NOT ECHION_SANITIZE AND NOT ECHION_LIBFUZZER)
  set(ECHION_GUEST_HARDENING -fstack-protector-strong)
  set(ECHION_HOST_HARDENING -fstack-protector-strong -fstack-clash-protection -D_GLIBCXX_ASSERTIONS
                            # It needs an optimising compiler.
                            $<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE>
                            $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=3>)
endif()

find_program(ECHION_OBJCOPY NAMES objcopy llvm-objcopy)

function(echion_harden target)
  target_link_options(${target} PRIVATE -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)
  # gdb and perf find FILE.debug through the link to it (.gnu_debuglink).
  if(ECHION_SPLIT_DEBUG AND ECHION_OBJCOPY AND NOT ECHION_SANITIZE)
    set(file $<TARGET_FILE:${target}>)
    add_custom_command(TARGET ${target} POST_BUILD VERBATIM
      COMMAND ${ECHION_OBJCOPY} --only-keep-debug ${file} ${file}.debug
      COMMAND ${ECHION_OBJCOPY} --strip-unneeded --add-gnu-debuglink=${file}.debug ${file})
    set_property(TARGET ${target} APPEND PROPERTY ADDITIONAL_CLEAN_FILES ${file}.debug)
  endif()
endfunction()
