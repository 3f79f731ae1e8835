#include "cli/lost_samplers.h"

#include <utility>

#include "base/clock.h"
#include "platform/process_info.h"

namespace echion::cli {
namespace {

/// A process that lives on for so long without its agent is not about to end.
constexpr std::int64_t kLastMomentsNs = kNanosPerSecond;
constexpr std::size_t kMaxWatched = 64;

}  // namespace

void LostSamplers::add(AgentProcess process, std::int64_t now_ns) {
    if (watched_.size() == kMaxWatched) {
        ++unwatched_;
        return;
    }
    watched_.push_back({std::move(process), now_ns});
}

void LostSamplers::look(std::int64_t now_ns, FunctionRef<bool(pid_t)> is_sampled,
                        FunctionRef<void(pid_t)> on_lost) {
    std::erase_if(watched_, [&](const Watched& one) {
        const pid_t pid = one.process.pid();
        if (is_sampled(pid) || is_ending(pid) || !one.process.runs_same_program() ||
            !one.process.check()) {
            return true;
        }
        // One that has been killed may be in a wait that it has to end first.
        const auto info = read_process_info(pid);
        if (now_ns - one.since_ns < kLastMomentsNs || !info || info->state == 'D') {
            return false;
        }
        on_lost(pid);
        return true;
    });
}

}  // namespace echion::cli
