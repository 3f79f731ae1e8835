#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "console/exit_status.h"
#include "control/control.h"
#include "engine/engines.h"
#include "output/formats.h"

/// What the user asked for. Parsing touches nothing but the argument strings.
namespace echion::cli {

constexpr std::uint64_t kDefaultIntervalNs = 1'000'000;
/// Between samples from outside (-x -w), which cost more.
constexpr std::uint64_t kDefaultFollowIntervalNs = 10'000'000;
constexpr std::uint64_t kMinIntervalNs = 1'000;
constexpr std::uint64_t kMaxIntervalNs = 3'600'000'000'000;
constexpr std::uint64_t kMaxExposureNs = 366ULL * 86'400'000'000'000;
constexpr std::uint32_t kDefaultMaxFrames = 2048;
constexpr std::string_view kDefaultOutput = "%(pid).echion";
/// Some hours of a busy program, and more than any tool reads; less than what would fill a disk.
constexpr std::uint64_t kDefaultMaxOutputBytes = std::uint64_t{8} << 30;
constexpr std::uint64_t kMinMaxOutputBytes = std::uint64_t{4} << 10;
/// Ten times what a large program's names and stacks take.
constexpr std::uint64_t kDefaultMaxMemoryBytes = std::uint64_t{1} << 30;
constexpr std::uint64_t kMinMaxMemoryBytes = std::uint64_t{1} << 20;

struct Options {
    std::uint64_t interval_ns = kDefaultIntervalNs;
    std::optional<std::uint64_t> exposure_ns;
    std::uint32_t max_frames = kDefaultMaxFrames;
    control::TaskMode tasks = control::TaskMode::kAll;
    std::string output{kDefaultOutput};
    bool output_is_default = true;  ///< Nobody named it.
    output::Format format = output::Format::kAustin;
    std::uint64_t max_output_bytes = kDefaultMaxOutputBytes;
    std::uint64_t max_memory_bytes = kDefaultMaxMemoryBytes;  ///< For what targets tell.
    bool cpu = false;
    bool memory = false;
    bool native = false;
    bool stealth = false;
    bool verbose = false;
    bool json = false;
    bool doctor = false;
    bool allow_seccomp = false;  ///< Attach also where a seccomp filter cannot be judged.
    /// --engine: one of engine::engines(), or an error; null: the best that can be had.
    const engine::EngineKind* engine = nullptr;
    bool follow = true;  ///< Go to the CPU of the thread whose stack is read.
    std::optional<pid_t> attach_pid;
    std::optional<pid_t> where_pid;
    std::vector<std::string> command;
};

/// Either options to act on, or an exit status with what to print first.
struct ParsedOptions {
    std::optional<Options> options;
    int exit_status = 0;
    std::string output;  ///< For standard output: help, version.
    std::string error;   ///< For standard error.
};

/// Parses the arguments behind the program's name.
ParsedOptions parse_options(const std::vector<std::string>& arguments);

/// Replaces `%(pid)` and `%%(pid)` by the process id.
std::string expand_output(std::string_view pattern, pid_t pid);

}  // namespace echion::cli
