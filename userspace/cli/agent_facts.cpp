#include "cli/agent_facts.h"

#include <signal.h>

#include <string>

#include "cli/options.h"
#include "console/message.h"
#include "control/control.h"
#include "engine/engines.h"
#include "platform/process_info.h"

namespace echion::cli {

void tell_about_agent(const Session& session, const EngineChoice& engine) {
    const std::string why = engine.why_not_better();
    say("process {}: the engine is {}{}", session.pid(),
        (session.is_armed() ? engine.kind() : engine::own_clock()).name,
        why.empty() ? "" : " (" + why + ")");
    const auto info = read_process_info(session.pid());
    if (info && (info->ignored_signals >> (SIGQUIT - 1) & 1) != 0) {
        say("process {} ignores SIGQUIT, and so does not show its stacks at that signal",
            session.pid());
    }
    if (session.raised_by() == control::kRealtime) {
        say("process {}: its sampler has a priority above the program's (it is a real-time thread)",
            session.pid());
    } else if (session.raised_by() > 0) {
        say("process {}: its sampler has a priority above the program's (its nice value is {} "
            "lower)",
            session.pid(), session.raised_by());
    } else {
        say("process {} may not raise its sampler's priority (it has no CAP_SYS_NICE, and its "
            "RLIMIT_NICE does not allow it): what a busy machine keeps the sampler from is in "
            "missed_us",
            session.pid());
    }
    if (session.shares_table()) {
        say("process {} shares its descriptor table with the sampler: close_range is refused or "
            "not there (before Linux 5.9)",
            session.pid());
    }
}

}  // namespace echion::cli
