#include "cli/agent_process.h"

#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace echion::cli {
namespace {

constexpr bool has_capability(std::uint64_t set, unsigned capability) {
    return (set >> capability & 1U) != 0;
}

bool had_uid(const ProcessInfo& before, uid_t uid) {
    return uid == before.real_uid || uid == before.effective_uid || uid == before.saved_uid;
}

bool had_gid(const ProcessInfo& before, gid_t gid) {
    return gid == before.real_gid || gid == before.effective_gid || gid == before.saved_gid;
}

}  // namespace

bool has_gained_rights(const ProcessInfo& before, const ProcessInfo& now) {
    if (has_capability(before.permitted_capabilities, CAP_SETUID)) {
        return false;
    }
    const bool same_user = had_uid(before, now.real_uid) && had_uid(before, now.effective_uid) &&
                           had_uid(before, now.saved_uid);
    const bool same_group = has_capability(before.permitted_capabilities, CAP_SETGID) ||
                            (had_gid(before, now.real_gid) && had_gid(before, now.effective_gid) &&
                             had_gid(before, now.saved_gid));
    return !same_user || !same_group ||
           (now.permitted_capabilities & ~before.permitted_capabilities) != 0;
}

Result<AgentProcess> AgentProcess::pin(pid_t pid, UniqueFd pidfd) {
    if (pid <= 0) {
        return fail(ErrorKind::kSystem, "find the agent's process", ESRCH);
    }
    if (!pidfd) {
        pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
        if (!pidfd && errno != ENOSYS && errno != EPERM) {
            return fail(ErrorKind::kSystem, "find the agent's process", errno);
        }
    }
    AgentProcess process(pid, std::move(pidfd));
    const auto info = read_process_info(pid);
    // Only now is it sure whose rights were read.
    if (process.has_ended()) {
        return fail(ErrorKind::kSystem, "find the agent's process", ESRCH);
    }
    if (info) {
        process.at_first_ = *info;
    }
    return process;
}

bool AgentProcess::has_ended() const {
    pollfd entry{pidfd_.get(), POLLIN, 0};
    return pidfd_ && poll(&entry, 1, 0) != 0;
}

Status AgentProcess::check() const {
    if (!is_pinned()) {
        return fail(ErrorKind::kRefused, "the agent's process cannot be held on to");
    }
    const auto info = read_process_info(pid_);
    if (has_ended()) {
        return fail(ErrorKind::kSystem, "the agent's process has ended", ESRCH);
    }
    if (!info) {
        return tl::unexpected(info.error());
    }
    if (has_gained_rights(*at_first_, *info)) {
        return fail(ErrorKind::kRefused, "the process has gained rights");
    }
    return {};
}

}  // namespace echion::cli
