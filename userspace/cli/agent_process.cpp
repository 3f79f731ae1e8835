#include "cli/agent_process.h"

#include <errno.h>
#include <poll.h>

#include <utility>

#include "platform/process_handle.h"
#include "platform/process_rights.h"

namespace echion::cli {

Result<AgentProcess> AgentProcess::pin(pid_t pid, UniqueFd descriptor,
                                       const std::optional<ProgramImage>& image) {
    if (pid <= 0) {
        return fail(ErrorKind::kSystem, "find the agent's process", ESRCH);
    }
    if (!descriptor) {
        auto opened = open_process(pid);
        if (opened) {
            descriptor = std::move(*opened);
        } else if (opened.error().system_errno != ENOSYS && opened.error().system_errno != EPERM) {
            return fail(ErrorKind::kSystem, "find the agent's process",
                        opened.error().system_errno);
        }
    }
    AgentProcess process(pid, std::move(descriptor));
    const auto info = read_process_info(pid);
    process.image_ = image ? *image : look_at_program(pid).value_or(ProgramImage{});
    process.start_ticks_ = read_descent(pid).value_or(ProcessDescent{}).start_ticks;
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
    pollfd entry{descriptor_.get(), POLLIN, 0};
    return descriptor_ && poll(&entry, 1, 0) != 0;
}

bool AgentProcess::has_executed() const {
    const auto now = look_at_program(pid_);
    const bool is_known = image_.stack() != 0 && now && now->stack() != 0 && !now->is_hidden;
    return is_known && now->places != image_.places && !has_ended();
}

bool AgentProcess::runs_same_program() const {
    const auto now = look_at_program(pid_);
    return image_.stack() != 0 && now && !now->is_hidden && now->places == image_.places &&
           !has_ended();
}

void AgentProcess::wait_for_change(int patience_ms) const {
    pollfd entry{descriptor_.get(), POLLIN, 0};
    for (int i = 0; i < patience_ms && !has_executed(); ++i) {
        if (poll(&entry, 1, 1) != 0) {
            return;
        }
    }
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
