#pragma once

/// What echion's exit status means where it is not the command's own.
namespace echion {

constexpr int kExitFailure = 1;  ///< Echion itself failed.
constexpr int kExitUsage = 2;    ///< The command line makes no sense.
constexpr int kExitCannotExecute = 126;
constexpr int kExitNotFound = 127;
/// Plus the number of the signal that ended the command, or us before we were attached.
constexpr int kExitSignalBase = 128;

}  // namespace echion
