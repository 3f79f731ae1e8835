#include "isolation/kept_rights.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "console/message.h"
#include "platform/process_info.h"

namespace echion {
namespace {

constexpr std::uint64_t bit(engine::Capability capability) {
    return std::uint64_t{1} << static_cast<int>(capability);
}

/// The calling thread's sets, as capget(2) has them.
struct Sets {
    std::uint64_t effective = 0;
    std::uint64_t permitted = 0;
    std::uint64_t inheritable = 0;
};

using Words = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

Result<Sets> read_sets() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    Words words{};
    if (syscall(SYS_capget, &header, words.data()) != 0) {
        return fail(ErrorKind::kSystem, "read the capabilities", errno);
    }
    const auto join = [](std::uint32_t low, std::uint32_t high) {
        return std::uint64_t{high} << 32U | low;
    };
    return Sets{join(words[0].effective, words[1].effective),
                join(words[0].permitted, words[1].permitted),
                join(words[0].inheritable, words[1].inheritable)};
}

Status write_sets(const Sets& sets) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    Words words{};
    for (std::size_t i = 0; i < words.size(); ++i) {
        words[i].effective = static_cast<std::uint32_t>(sets.effective >> 32U * i);
        words[i].permitted = static_cast<std::uint32_t>(sets.permitted >> 32U * i);
        words[i].inheritable = static_cast<std::uint32_t>(sets.inheritable >> 32U * i);
    }
    if (syscall(SYS_capset, &header, words.data()) != 0) {
        return fail(ErrorKind::kSystem, "give up capabilities", errno);
    }
    return {};
}

std::uint64_t choose(const NeededRights& needed, std::uint64_t permitted) {
    std::uint64_t kept = 0;
    for (const engine::Capability one : needed.engine) {
        kept |= bit(one);
    }
    if ((kept & ~permitted) != 0) {
        kept |= bit(engine::Capability::kSysAdmin);  // which stands in for CAP_BPF and CAP_PERFMON
    }
    kept |= needed.other_processes ? bit(engine::Capability::kSysPtrace) : 0;
    kept |= needed.signals ? bit(engine::Capability::kKill) : 0;
    return kept & permitted;
}

/// Whether a file can be removed with `kept` only: the folder may be another user's.
bool may_remove(const std::string& path, std::uint64_t kept, const Sets& before) {
    const std::size_t slash = path.rfind('/');
    const std::string folder =
        slash == std::string::npos ? "." : path.substr(0, slash == 0 ? 1 : slash);
    if (!write_sets({kept & before.effective, before.permitted, before.inheritable})) {
        return true;
    }
    const bool may =
        faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0 || errno != EACCES;
    (void)write_sets(before);
    return may;
}

/// What every thread is to do, as signal handlers have no arguments.
Sets wanted;

/// In the calling thread; signal-safe. The bounding set first, which takes CAP_SETPCAP: without,
/// this process can gain nothing by its exec either (no_new_privs).
Status give_up() {
    for (unsigned long capability = 0; capability < 64; ++capability) {
        if ((wanted.permitted >> capability & 1U) == 0 && prctl(PR_CAPBSET_READ, capability) == 1) {
            (void)prctl(PR_CAPBSET_DROP, capability);
        }
    }
    if (auto status = write_sets(wanted); !status) {
        return status;
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return fail(ErrorKind::kSystem, "give up gaining rights (no_new_privs)", errno);
    }
    return {};
}

/// The C library's own signal for changing the user of all threads, which its functions leave out
/// of every mask (glibc sysdeps/unix/sysv/linux/internal-signals.h, SIGSETXID): a thread that takes
/// no signals takes this one. This program changes no user.
constexpr int kAllThreadsSignal = 33;

/// How the kernel handles a signal, as it keeps it: copied from one to another, never looked into.
/// The largest layout is some 40 bytes.
struct KernelAction {
    alignas(8) std::array<std::byte, 64> bytes{};
};
constexpr std::size_t kKernelMaskBytes = 8;

bool read_action(int number, KernelAction& action) {
    return syscall(SYS_rt_sigaction, number, nullptr, action.bytes.data(), kKernelMaskBytes) == 0;
}

bool write_action(int number, const KernelAction& action) {
    return syscall(SYS_rt_sigaction, number, action.bytes.data(), nullptr, kKernelMaskBytes) == 0;
}

void on_all_threads_signal(int) {
    const int kept_errno = errno;
    (void)give_up();
    errno = kept_errno;
}

/// Has the signal handled by on_all_threads_signal() as long as it lives. The C library does not
/// let this signal through its sigaction(): so another is prepared by it, and copied.
class AllThreadsHandler {
  public:
    AllThreadsHandler() {
        const int model = SIGRTMAX;
        struct sigaction action {};
        action.sa_handler = on_all_threads_signal;
        action.sa_flags = SA_RESTART;
        sigfillset(&action.sa_mask);
        KernelAction models;
        KernelAction copy;
        if (!read_action(kAllThreadsSignal, before_) || !read_action(model, models) ||
            sigaction(model, &action, nullptr) != 0) {
            return;
        }
        is_set_ = read_action(model, copy) && write_action(kAllThreadsSignal, copy);
        (void)write_action(model, models);
    }
    ~AllThreadsHandler() {
        if (is_set_ && !stays_) {
            (void)write_action(kAllThreadsSignal, before_);
        }
    }
    AllThreadsHandler(const AllThreadsHandler&) = delete;
    AllThreadsHandler& operator=(const AllThreadsHandler&) = delete;

    [[nodiscard]] bool is_set() const { return is_set_; }
    /// From now on it handles the signal for good: a thread may still get one.
    void stay() { stays_ = true; }

  private:
    KernelAction before_;
    bool is_set_ = false;
    bool stays_ = false;
};

/// Whether no other thread has more than `wanted`; signals those that have, each once: a thread
/// that has obeyed must have no second signal coming, which the C library's own handler would get.
bool ask_others(std::vector<pid_t>& asked) {
    bool is_done = true;
    const auto own = static_cast<pid_t>(syscall(SYS_gettid));
    (void)for_each_thread(0, [&](pid_t tid) {
        const auto info = tid != own ? read_thread_info(0, tid) : Result<ProcessInfo>();
        if (tid != own && info && info->state != 'Z' && info->state != 'X' &&
            (info->permitted_capabilities & ~wanted.permitted) != 0) {
            is_done = false;
            if (std::find(asked.begin(), asked.end(), tid) == asked.end() &&
                syscall(SYS_tgkill, getpid(), tid, kAllThreadsSignal) == 0) {
                asked.push_back(tid);
            }
        }
        return true;
    });
    return is_done;
}

/// Has all other threads do as this one did.
Status have_others_give_up() {
    constexpr int kLooks = 500;
    constexpr std::int64_t kLookEveryNs = 1'000'000;
    AllThreadsHandler handler;
    std::vector<pid_t> asked;
    for (int look = 0; handler.is_set() && look < kLooks; ++look) {
        if (ask_others(asked)) {
            return {};
        }
        const timespec moment = make_timespec(kLookEveryNs);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
    }
    handler.stay();
    return fail(ErrorKind::kInvalid, "give up capabilities: another thread keeps its own");
}

std::string name_all(std::uint64_t capabilities) {
    std::string names;
    for (const engine::Capability one :
         {engine::Capability::kDacOverride, engine::Capability::kKill,
          engine::Capability::kSysPtrace, engine::Capability::kSysAdmin,
          engine::Capability::kPerfmon, engine::Capability::kBpf}) {
        if ((capabilities & bit(one)) != 0) {
            names += (names.empty() ? "" : ", ") + std::string(engine::capability_name(one));
        }
    }
    return names.empty() ? "none" : names;
}

}  // namespace

Result<std::string> keep_rights(const NeededRights& needed) {
    const auto before = read_sets();
    if (!before) {
        return tl::unexpected(before.error());
    }
    std::uint64_t kept = choose(needed, before->permitted);
    const std::uint64_t override = bit(engine::Capability::kDacOverride) & before->permitted;
    if (!needed.output.empty() && override != 0 && !may_remove(needed.output, kept, *before)) {
        kept |= override;
    }
    wanted = {kept & before->effective, kept, 0};
    if (auto status = give_up(); !status) {
        return tl::unexpected(status.error());
    }
    if (auto status = have_others_give_up(); !status) {
        return tl::unexpected(status.error());
    }
    return name_all(kept);
}

void keep_rights_only(const NeededRights& needed, bool verbose) {
    const auto kept = keep_rights(needed);
    if (!kept) {
        say("this program keeps more rights than it needs: {}", describe(kept.error()));
    } else if (verbose) {
        say("capabilities kept: {}", *kept);
    }
}

}  // namespace echion
