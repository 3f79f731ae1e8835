#include "cli/injecting.h"

#include <cstdint>
#include <utility>

#include "inject/target_code.h"
#include "memory/stall_guard.h"

namespace echion::cli {

Result<std::unique_ptr<Injecting>> Injecting::start(EventLoop& loop, pid_t pid,
                                                    inject::InjectLimits limits,
                                                    std::span<const std::byte> agent,
                                                    std::string name, EventLoop::Handler on_done) {
    auto done = Event::make();
    if (!done) {
        return tl::unexpected(done.error());
    }
    std::unique_ptr<Injecting> self(new Injecting(loop, std::move(*done)));
    auto source = loop.add(self->done_.fd(), std::move(on_done));
    if (!source) {
        return tl::unexpected(source.error());
    }
    self->source_ = *source;
    // Its signals are this thread's: all that matter are blocked, and it inherits that.
    self->thread_ = std::thread([self = self.get(), pid, limits = std::move(limits), agent,
                                 name = std::move(name)]() mutable {
        self->run(pid, {agent, name}, std::move(limits));
    });
    return self;
}

void Injecting::run(pid_t pid, const inject::AgentImage& image, inject::InjectLimits limits) {
    limits.is_cancelled = [this] { return is_cancelled(); };
    limits.guard = &watch_.guard();
    {
        const StallGuard::Section section(
            limits.guard, limits.safe_point_ns + limits.load_ns + 3 * kTargetCodeLimits.time_ns);
        result_.emplace(inject::inject_agent(pid, image, limits));
    }
    done_.raise();
}

Injecting::~Injecting() {
    loop_.remove(source_);
    if (thread_.joinable()) {
        thread_.join();
    }
}

inject::InjectResult Injecting::take_result() {
    thread_.join();
    return std::move(*result_);
}

}  // namespace echion::cli
