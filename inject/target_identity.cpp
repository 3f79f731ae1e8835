#include "inject/target_identity.h"

#include <linux/kcmp.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "console/refusal.h"
#include "platform/process_rights.h"

namespace echion::inject {
namespace {

// A program that is being executed is not looked at: how long one look may wait for it. Reading
// its file takes the kernel a moment.
constexpr std::int64_t kExecutingNs = 300'000'000;
constexpr std::int64_t kNapNs = 1'000'000;
// How long a process that is ending is waited for: a thread of it may be held meanwhile, and is not
// to be kept from its end.
constexpr int kLastMomentsMs = 20;

/// Whether a thread of `parent` waits for a child that it has lent its memory to: such a wait is
/// uninterruptible, in the call that made the child.
bool waits_for_vfork(pid_t parent) {
    bool is_found = false;
    (void)for_each_thread(parent, [&](pid_t tid) {
        const auto info = read_thread_info(parent, tid);
        if (info && info->state == 'D') {
            const auto call = read_blocked_call(parent, tid);
            is_found = call && (call->number == SYS_vfork || call->number == SYS_clone ||
                                call->number == SYS_clone3);
        }
        return !is_found;
    });
    return is_found;
}

}  // namespace

Result<TargetIdentity> TargetIdentity::hold(pid_t pid, StallGuard* guard) {
    const std::int64_t deadline_ns = monotonic_ns() + kExecutingNs;
    for (;;) {
        auto target = hold_once(pid, guard);
        const bool is_changing = !target && target.error().kind == ErrorKind::kRefused;
        if (!is_changing || monotonic_ns() >= deadline_ns) {
            return target;
        }
        sleep_ns(kNapNs);
    }
}

Result<TargetIdentity> TargetIdentity::hold_once(pid_t pid, StallGuard* guard) {
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd) {
        return fail(ErrorKind::kSystem, "pidfd_open", errno);
    }
    TargetIdentity target(pid, std::move(pidfd));
    const auto image = look_at_program(pid);
    if (!image) {
        return tl::unexpected(image.error());
    }
    target.image_ = *image;
    auto memory = TargetMemory::open(pid, guard);
    if (!memory) {
        return tl::unexpected(memory.error());
    }
    target.memory_ = std::move(*memory);
    const auto again = look_at_program(pid);
    if (!again) {
        return tl::unexpected(again.error());
    }
    if (*again != target.image_) {
        return target.explain_loss();
    }
    target.probe_ = Address(target.image_.stack());
    const auto info = read_process_info(pid);
    if (!info) {
        return tl::unexpected(info.error());
    }
    target.at_first_ = *info;
    // All that was opened and read by the number was the process's only if it lives now.
    if (target.has_ended() || !info->has_memory) {
        return fail(ErrorKind::kSystem, "the process has ended", ESRCH);
    }
    if (target.image_.is_hidden) {
        return fail(ErrorKind::kSystem, "look at the process", EPERM);
    }
    // Without a stack it is in the middle of an exec.
    if (target.probe_.is_null() || !target.memory_.is_alive(target.probe_)) {
        return target.explain_loss();
    }
    return target;
}

bool TargetIdentity::has_ended(int patience_ms) const {
    pollfd entry{pidfd_.get(), POLLIN, 0};
    return poll(&entry, 1, patience_ms) == 1;
}

// A process that ends gives its memory back, and its places with it, before it has ended.
tl::unexpected<Error> TargetIdentity::explain_loss() const {
    // The first thread is ending also where another one executes a program, for as long as that
    // takes to end it.
    for (int i = 0; i < kLastMomentsMs && is_ending(pid_); ++i) {
        if (has_ended(1)) {
            break;
        }
    }
    return is_ending(pid_) || has_ended()
               ? fail(ErrorKind::kSystem, "the process has ended", ESRCH)
               : fail(ErrorKind::kRefused, "the process has executed another program");
}

Status TargetIdentity::check() {
    const auto info = read_process_info(pid_);
    const auto image = look_at_program(pid_);
    const bool is_same_image = memory_.is_alive(probe_) && image && *image == image_;
    // Last: only now is it sure whose files were read.
    const bool has_gone = has_ended();
    if (!has_gone && !info && is_shortage(info.error().system_errno)) {
        return tl::unexpected(info.error());
    }
    if (!has_gone && !image) {
        return tl::unexpected(image.error());
    }
    if (!info || has_gone || info->state == 'Z' || info->state == 'X') {
        return fail(ErrorKind::kSystem, "the process has ended", ESRCH);
    }
    if (!is_same_image) {
        return explain_loss();
    }
    if (has_gained_rights(at_first_, *info)) {
        return fail(ErrorKind::kRefused, "the process has gained rights");
    }
    return {};
}

Status TargetIdentity::check_thread(pid_t tid) {
    // Only a thread of this process has a folder there.
    if (tid != pid_ && !read_thread_info(pid_, tid)) {
        return fail(ErrorKind::kSystem, "the thread has ended", ESRCH);
    }
    return check();
}

bool TargetIdentity::shares_parents_memory() const {
    const pid_t parent = at_first_.parent_pid;
    if (parent <= 0) {
        return false;
    }
    const long compared = syscall(SYS_kcmp, pid_, parent, KCMP_VM, 0, 0);
    return compared < 0 ? waits_for_vfork(parent) : compared == 0;
}

std::string explain_change(pid_t pid, const Error& error) {
    if (error.kind == ErrorKind::kSystem && error.system_errno != ESRCH) {
        return explain_refusal(pid, error.system_errno);
    }
    if (error.kind != ErrorKind::kRefused) {
        return "process " + std::to_string(pid) + " ended while attaching";
    }
    return "cannot attach to " + describe_process(pid) + ": " + error.what +
           " meanwhile; if it is the right one, try again";
}

}  // namespace echion::inject
