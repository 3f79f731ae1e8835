#include "platform/program_image.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdio>

#include "platform/linux/proc_file.h"

namespace echion {
namespace {

// Numbers of the fields of /proc/PID/stat, counted from 1 (proc(5)).
constexpr unsigned kFieldBehindName = 3;
constexpr unsigned kFlagsField = 9;
constexpr std::array<unsigned, 6> kPlaceFields = {26, 27, 28, 45, 46, 47};

constexpr unsigned kParentField = 4;
constexpr unsigned kStartField = 22;
constexpr unsigned kExitStatusField = 52;

constexpr std::uint64_t kExiting = 0x4;              // PF_EXITING (include/linux/sched.h)
constexpr std::uint64_t kForkedNoExec = 0x40;        // PF_FORKNOEXEC (include/linux/sched.h)
constexpr std::uint64_t kKernelThread = 0x00200000;  // PF_KTHREAD (include/linux/sched.h)

constexpr std::size_t kStatBytes = 2048;

template <std::size_t count>
std::array<std::uint64_t, count> parse_fields(std::string_view text,
                                              const std::array<unsigned, count>& wanted) {
    std::array<std::uint64_t, count> values{};
    text.remove_prefix(std::min(text.size(), text.rfind(')') + 1));
    unsigned field = kFieldBehindName - 1;
    while (!text.empty()) {
        text.remove_prefix(std::min(text.size(), text.find_first_not_of(" \n")));
        const std::string_view word = text.substr(0, text.find_first_of(" \n"));
        text.remove_prefix(word.size());
        ++field;
        const auto* found = std::find(wanted.begin(), wanted.end(), field);
        if (found != wanted.end()) {
            (void)std::from_chars(word.data(), word.data() + word.size(),
                                  values[static_cast<std::size_t>(found - wanted.begin())]);
        }
    }
    return values;
}

Result<std::uint64_t> read_flags(pid_t pid) {
    std::array<char, kStatBytes> text;
    const auto size = read_proc_text(pid, "stat", text.data(), text.size());
    if (!size) {
        return tl::unexpected(size.error());
    }
    return parse_fields(std::string_view(text.data(), *size), std::array{kFlagsField})[0];
}

}  // namespace

std::array<std::uint64_t, 6> parse_program_places(std::string_view text) {
    return parse_fields(text, kPlaceFields);
}

ProcessDescent parse_descent(std::string_view text) {
    const auto fields = parse_fields(text, std::array{kParentField, kFlagsField, kStartField});
    ProcessDescent descent;
    descent.parent_pid = static_cast<pid_t>(fields[0]);
    descent.runs_parents_program = (fields[1] & kForkedNoExec) != 0;
    descent.start_ticks = fields[2];
    // The state is a letter behind the name and a space.
    const std::size_t state = std::min(text.size(), text.rfind(')') + 2);
    descent.has_ended = text.substr(state, 1) == "Z" || text.substr(state, 1) == "X";
    return descent;
}

Result<ProcessDescent> read_descent(pid_t pid) {
    std::array<char, kStatBytes> text;
    const auto size = read_proc_text(pid, "stat", text.data(), text.size());
    if (!size) {
        return tl::unexpected(size.error());
    }
    return parse_descent({text.data(), *size});
}

bool is_shortage(int system_errno) {
    return system_errno == EMFILE || system_errno == ENFILE || system_errno == ENOMEM;
}

Result<ProgramImage> look_at_program(pid_t pid) {
    ProgramImage image;
    char path[32];
    std::snprintf(path, sizeof(path), "/proc/%d/exe", static_cast<int>(pid));
    struct statx status {};
    // What the kernel knows already: a file system in user space is not asked, it might not answer.
    if (statx(AT_FDCWD, path, AT_STATX_DONT_SYNC, STATX_INO, &status) == 0) {
        image.executable_device = std::uint64_t{status.stx_dev_major} << 32 | status.stx_dev_minor;
        image.executable_inode = status.stx_ino;
    } else {
        image.is_hidden = errno == EACCES || errno == EPERM;
    }
    std::array<char, kStatBytes> text;
    const auto size = read_proc_text(pid, "stat", text.data(), text.size());
    if (size) {
        image.places = parse_program_places({text.data(), *size});
    } else if (is_shortage(size.error().system_errno)) {
        return tl::unexpected(size.error());
    }
    return image;
}

int parse_exit_status(std::string_view text) {
    return static_cast<int>(parse_fields(text, std::array{kExitStatusField})[0]);
}

int read_first_thread_status(pid_t pid) {
    std::array<char, kStatBytes> text;
    const auto size = read_proc_text(pid, "stat", text.data(), text.size());
    return size ? parse_exit_status({text.data(), *size}) : 0;
}

bool is_ending(pid_t pid) {
    const auto flags = read_flags(pid);
    return flags ? (*flags & kExiting) != 0
                 : flags.error().system_errno == ENOENT || flags.error().system_errno == ESRCH;
}

bool is_kernel_thread(pid_t pid) { return (read_flags(pid).value_or(0) & kKernelThread) != 0; }

}  // namespace echion
