#include "inject/thread_descriptors.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "platform/process_info.h"

namespace echion::inject {
namespace {

// PIDFD_THREAD of newer headers (include/uapi/linux/pidfd.h).
constexpr unsigned kThreadOnly = O_EXCL;
// As many are looked at, some 20 us each, where the numbers are a PID namespace's own.
constexpr std::size_t kMaxThreads = 32768;

UniqueFd open_thread(pid_t tid) {
    return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, tid, kThreadOnly)));
}

/// The number that a thread has here: another one if the target is in a PID namespace of its own.
/// 0 if there is no such thread.
pid_t find_thread(pid_t pid, pid_t own_tid) {
    const auto is_wanted = [&](pid_t tid) {
        const auto info = read_thread_info(pid, tid);
        return info && info->own_pid == own_tid;
    };
    if (is_wanted(own_tid)) {
        return own_tid;
    }
    pid_t found = 0;
    std::size_t looks = 0;
    (void)for_each_thread(pid, [&](pid_t tid) {
        found = is_wanted(tid) ? tid : 0;
        return found == 0 && ++looks < kMaxThreads;
    });
    return found;
}

}  // namespace

bool ThreadDescriptors::are_supported() {
    const auto own_tid = static_cast<pid_t>(syscall(SYS_gettid));
    const UniqueFd thread = open_thread(own_tid);
    if (!thread) {
        return false;
    }
    // The descriptor's own number will do as one that is open.
    return static_cast<bool>(
        UniqueFd(static_cast<int>(syscall(SYS_pidfd_getfd, thread.get(), thread.get(), 0))));
}

Result<ThreadDescriptors> ThreadDescriptors::open(TargetIdentity& target, pid_t own_tid) {
    const pid_t tid = own_tid > 0 ? find_thread(target.pid(), own_tid) : 0;
    UniqueFd thread = tid > 0 ? open_thread(tid) : UniqueFd();
    if (!thread) {
        return fail(ErrorKind::kSystem, "open the helper thread", tid > 0 ? errno : ESRCH);
    }
    // The number may have been given to a thread of another process before it was opened. A thread
    // that has this number now, and lives when something is fetched from it, is the one opened.
    if (const Status status = target.check_thread(tid); !status) {
        return tl::unexpected(status.error());
    }
    return ThreadDescriptors(std::move(thread));
}

}  // namespace echion::inject
