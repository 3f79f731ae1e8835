#pragma once

#include <string>

namespace echion::cli {

/// File name of the library that runs in the target.
constexpr char kAgentName[] = "libechion.so";

/// The agent beside this program, or where an installation has it from
/// there (`../lib`, or as CMake was told); empty if neither. No variable of the environment has a
/// say.
std::string find_agent();

/// One line for the user when there is none.
std::string tell_missing_agent();

}  // namespace echion::cli
