#include "cli/target_shortage.h"

#include <dirent.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "cli/memory_limits.h"
#include "platform/linux/proc_file.h"
#include "platform/process_info.h"

namespace echion::cli {
namespace {

constexpr unsigned kCapSysAdmin = 21;  // capabilities(7)
constexpr unsigned kCapSysResource = 24;
constexpr unsigned kFilterMode = 2;           // SECCOMP_MODE_FILTER
constexpr std::uint64_t kEnoughFiles = 1024;  // what a shell usually grants

// Of neither there is a sign in /proc: the kernel does not tell that a process has all it will map
// locked (MCL_FUTURE).
constexpr char kThreadOrLock[] =
    "; the likely cause is a limit on threads (pids.max of its control group) or, if it locks its "
    "memory, on that (ulimit -l)";

bool is_filtered(const ProcessInfo& info) { return info.seccomp == kFilterMode; }

/// Whether a thread of the process is under a seccomp filter: they belong to threads.
bool has_filter(pid_t pid) {
    const auto info = read_process_info(pid);
    bool has_one = info && is_filtered(*info);
    if (!has_one) {
        (void)for_each_thread(pid, [&](pid_t tid) {
            const auto thread = read_thread_info(pid, tid);
            has_one = thread && is_filtered(*thread);
            return !has_one;
        });
    }
    return has_one;
}

std::string read_limits(pid_t pid) {
    std::array<char, 4096> text;
    const auto size = read_proc_text(pid, "limits", text.data(), text.size());
    return size ? std::string(text.data(), *size) : "";
}

/// Threads of all processes of a user that can be seen from here.
std::uint64_t count_threads(uid_t user) {
    const auto close = [](DIR* directory) { ::closedir(directory); };
    const std::unique_ptr<DIR, decltype(close)> directory(::opendir("/proc"), close);
    std::uint64_t count = 0;
    while (directory != nullptr) {
        const dirent* entry = ::readdir(directory.get());
        if (entry == nullptr) {
            break;
        }
        const long pid = std::strtol(entry->d_name, nullptr, 10);
        const auto info = pid > 0 ? read_process_info(static_cast<pid_t>(pid))
                                  : Result<ProcessInfo>(fail(ErrorKind::kInvalid, "no process"));
        count += info && info->real_uid == user ? info->threads : 0;
    }
    return count;
}

/// copy_process() in kernel/fork.c says whom the limit does not hold for.
std::string explain_threads(pid_t pid, const std::string& limits) {
    const auto info = read_process_info(pid);
    if (!info || info->real_uid == 0 ||
        ((info->effective_capabilities >> kCapSysResource |
          info->effective_capabilities >> kCapSysAdmin) &
         1) != 0) {
        return "";
    }
    return describe_thread_limit(limits, pid, count_threads(info->real_uid));
}

}  // namespace

std::string describe_file_limit(std::string_view limits, pid_t pid) {
    constexpr std::string_view kKey = "Max open files";
    const auto files = find_soft_limit(limits, kKey);
    if (!files) {
        return "";
    }
    // "%-25s %-20lu %-20lu": without the colon the hard limit would go down with it.
    const auto hard = find_soft_limit(limits, fmt::format("{:<25} {}", kKey, *files));
    const std::uint64_t enough = std::max(kEnoughFiles, 2 * *files);
    return fmt::format(
        "; its open files are limited to {} (ulimit -n); remedy: prlimit --pid {} --nofile={}{}",
        *files, pid, enough, !hard || *hard >= enough ? ":" : "");
}

std::string describe_thread_limit(std::string_view limits, pid_t pid, std::uint64_t threads) {
    const auto most = find_soft_limit(limits, "Max processes");
    return most && threads >= *most
               ? fmt::format(
                     "; the threads of its user are limited to {} (ulimit -u), and there are {}; "
                     "remedy: prlimit --pid {} --nproc=unlimited",
                     *most, threads, pid)
               : "";
}

std::string explain_target_errno(pid_t pid, int system_errno, TargetCall call) {
    switch (system_errno) {
        case EMFILE:
            return describe_file_limit(read_limits(pid), pid);
        case ENOMEM:
            return explain_memory_limits(pid);
        case EAGAIN: {
            if (call == TargetCall::kMap) {
                return explain_memory_limits(pid, true);  // mmap(2) says it of nothing else
            }
            std::string told = explain_threads(pid, read_limits(pid));
            told = told.empty() ? explain_memory_limits(pid) : told;
            return told.empty() ? kThreadOrLock : told;
        }
        case EPERM:
        case EACCES:
        case ENOSYS:
            return has_filter(pid) ? "; its seccomp filter is the likely cause: have it allow the "
                                     "call, or use echion -w"
                                   : "";
        default:
            return "";
    }
}

}  // namespace echion::cli
