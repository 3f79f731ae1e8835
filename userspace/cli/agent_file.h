#pragma once

#include <string>

namespace echion::cli {

/// File name of the library that runs in the target.
constexpr char kAgentName[] = "libechion.so";

/// The agent beside this program, or in the lib folder beside this program's; empty if neither.
std::string find_agent();

}  // namespace echion::cli
