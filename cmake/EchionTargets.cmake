# Compile flags and the two kinds of library the tree is made of. cmake/Hardening.cmake has the flags
# against memory errors.
#
#   echion_guest_library(name SOURCES ... USES ...)   may run inside the target: no exceptions, no
#                                                     RTTI, no host library
#   echion_host_library(name SOURCES ... USES ...)    runs in the command-line program only
#       APART files: in a unity build (several files compiled as one, as scripts/test does for sanitizers
#       and clang-tidy), these are compiled by themselves. Their local names are other files' names, too.

find_package(Threads REQUIRED)
find_path(ECHION_EXPECTED_INCLUDE tl/expected.hpp REQUIRED)

add_library(echion_flags INTERFACE)
target_compile_options(echion_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
                       -fno-strict-aliasing -fno-omit-frame-pointer)
if(ECHION_WERROR)
  target_compile_options(echion_flags INTERFACE -Werror)
endif()
if(ECHION_SANITIZE)
  target_compile_options(echion_flags INTERFACE -fsanitize=${ECHION_SANITIZE} -fno-sanitize-recover=all)
  # Guest code has no run-time type information for `vptr` to look at. ThreadSanitizer does not know
  # fences; the accesses beside ours are atomic, so it misses no race by that.
  if(ECHION_SANITIZE MATCHES "undefined")
    target_compile_options(echion_flags INTERFACE -fno-sanitize=vptr)
  endif()
  if(ECHION_SANITIZE MATCHES "thread")
    target_compile_options(echion_flags INTERFACE -Wno-tsan)
  endif()
  target_link_options(echion_flags INTERFACE -fsanitize=${ECHION_SANITIZE})
endif()
# libFuzzer steers by the edges that it sees taken: all that a harness calls has to report them.
if(ECHION_LIBFUZZER)
  target_compile_options(echion_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
target_include_directories(echion_flags INTERFACE ${PROJECT_SOURCE_DIR}/userspace
                           ${PROJECT_SOURCE_DIR})
target_include_directories(echion_flags SYSTEM INTERFACE ${ECHION_EXPECTED_INCLUDE})
target_compile_definitions(echion_flags INTERFACE ECHION_VERSION="${PROJECT_VERSION}" _GNU_SOURCE)

include(Hardening)

function(_echion_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;APART;USES;FLAGS" ${ARGN})
  set_source_files_properties(${ARG_APART} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC echion_flags ${ARG_USES})
    target_compile_options(${name} PRIVATE ${ARG_FLAGS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE echion_flags ${ARG_USES})
  endif()
endfunction()

function(echion_guest_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;APART;USES" ${ARGN})
  foreach(used IN LISTS ARG_USES)
    set(is_host FALSE)
    if(TARGET ${used})
      get_target_property(is_host ${used} ECHION_IS_HOST)
    endif()
    if(is_host)
      message(FATAL_ERROR "${name} may run inside the target: it may not use ${used}, a host library")
    endif()
  endforeach()
  # tl::expected is used without value(), so nothing throws; a bad access is a build error, not a
  # run-time one.
  _echion_library(${name} ${ARGN} FLAGS -fno-exceptions -fno-rtti -fno-threadsafe-statics
                                        ${ECHION_GUEST_HARDENING})
endfunction()

function(echion_host_library name)
  _echion_library(${name} ${ARGN} FLAGS ${ECHION_HOST_HARDENING})
  set_target_properties(${name} PROPERTIES ECHION_IS_HOST TRUE)
endfunction()
