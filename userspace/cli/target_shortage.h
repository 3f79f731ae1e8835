#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace echion::cli {

/// What a process did when it failed.
enum class TargetCall : std::uint8_t { kMap, kOther };

/// Why a call that process `pid` made failed with this errno, as far as the process's limits and
/// its seccomp filter tell, with what to do; begins with "; ". Empty when they explain nothing.
/// Reads /proc, and where a thread could not be made, of all processes.
std::string explain_target_errno(pid_t pid, int system_errno, TargetCall call = TargetCall::kOther);

/// The limit on open files in the text of /proc/PID/limits, with the way out; empty when there is
/// none. Pure.
std::string describe_file_limit(std::string_view limits, pid_t pid);
/// The same of the limit on its user's threads, of which there are `threads`; empty also when that
/// is not the reason. Pure.
std::string describe_thread_limit(std::string_view limits, pid_t pid, std::uint64_t threads);

}  // namespace echion::cli
