#pragma once

#include <string>

namespace echion {

/// The path of the file that this process runs; empty if it cannot be told.
std::string find_own_program();

}  // namespace echion
