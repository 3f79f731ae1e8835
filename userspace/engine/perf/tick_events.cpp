#include "engine/perf/tick_events.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "base/clock.h"
#include "engine/perf/perf_event.h"
#include "platform/process_info.h"

namespace echion::engine {
namespace {

// Passes over the list of threads until one finds nothing new. Each is left with those started
// during the one before; a target that outruns this many keeps some of its newest uncovered.
constexpr int kMaxPasses = 8;

// CPUs that this process may run on: online ones, and none that were set apart from ordinary work.
std::vector<int> usable_cpus() {
    cpu_set_t* set = CPU_ALLOC(CPU_SETSIZE * 8);
    const std::size_t set_bytes = CPU_ALLOC_SIZE(CPU_SETSIZE * 8);
    std::vector<int> result;
    if (set != nullptr && ::sched_getaffinity(0, set_bytes, set) == 0) {
        for (int cpu = 0; cpu < CPU_SETSIZE * 8; ++cpu) {
            if (CPU_ISSET_S(cpu, set_bytes, set)) {
                result.push_back(cpu);
            }
        }
    }
    CPU_FREE(set);
    if (result.empty()) {
        result.push_back(0);
    }
    return result;
}

// A link carries the cookie; PERF_EVENT_IOC_SET_BPF has no room for one.
Result<UniqueFd> link_program(int program_fd, int event_fd, std::uint64_t cookie) {
    bpf_attr attributes;
    std::memset(&attributes, 0, sizeof(attributes));
    attributes.link_create.prog_fd = static_cast<std::uint32_t>(program_fd);
    attributes.link_create.target_fd = static_cast<std::uint32_t>(event_fd);
    attributes.link_create.attach_type = BPF_PERF_EVENT;
    attributes.link_create.perf_event.bpf_cookie = cookie;
    const long fd = ::syscall(SYS_bpf, BPF_LINK_CREATE, &attributes, sizeof(attributes));
    if (fd < 0) {
        return fail(ErrorKind::kSystem, "attach the program to the event", errno);
    }
    return UniqueFd(static_cast<int>(fd));
}

}  // namespace

Refusal explain_refusal(pid_t pid, const Error& error) {
    if (!may_signal(pid)) {
        return {explain_signal(pid).text(), error};
    }
    if (error.system_errno == EMFILE || error.system_errno == ENFILE) {
        return {
            explain_perf("open a perf event of each thread", error.system_errno, read_privileges())
                .text(),
            error};
    }
    return {"", error};
}

Result<TickEvents> TickEvents::start(const TickRequest& request, FindOrigins find_origins) {
    TickEvents timers(request);
    if (request.wall) {
        if (auto status = timers.open_wall_clock(); !status) {
            return tl::unexpected(status.error());
        }
    }
    if (request.thread_events) {
        if (auto status = timers.open_threads(find_origins); !status) {
            return tl::unexpected(status.error());
        }
        for (const UniqueFd& event : timers.thread_events_) {
            if (auto status = perf::enable(event); !status) {
                return tl::unexpected(status.error());
            }
        }
    }
    if (request.wall) {
        if (auto status = perf::enable(timers.wall_event_); !status) {
            return tl::unexpected(status.error());
        }
    }
    return timers;
}

Status TickEvents::open_wall_clock() {
    const std::vector<int> cpus = usable_cpus();
    Error error{ErrorKind::kSystem, ENODEV, "open a wall clock event"};
    // The last first: interrupts tend to be handled by the first.
    for (auto cpu = cpus.rbegin(); cpu != cpus.rend(); ++cpu) {
        auto event = perf::open_cpu_timer(*cpu, {.interval_ns = request_.interval_ns});
        if (!event) {
            error = event.error();
            continue;
        }
        wall_link_.reset();
        wall_event_ = std::move(*event);
        wall_cpu_ = *cpu;
        if (auto status = attach_wall_program(); !status) {
            return status;
        }
        return perf::signal_thread(wall_event_, request_.sampler_tid, request_.signal);
    }
    return tl::unexpected(error);
}

Status TickEvents::attach_wall_program() {
    if (request_.wall_program_fd < 0) {
        return {};
    }
    auto link = link_program(request_.wall_program_fd, wall_event_.get(), request_.target);
    if (!link) {
        return tl::unexpected(link.error());
    }
    wall_link_ = std::move(*link);
    return {};
}

Status TickEvents::open_thread(pid_t tid) {
    const auto inherit =
        request_.follow_children ? perf::Inherit::kChildren : perf::Inherit::kThreads;
    auto event = perf::open_task_timer(tid, inherit, {request_.interval_ns, request_.user_only});
    if (!event) {
        return tl::unexpected(event.error());
    }
    if (request_.thread_program_fd >= 0) {
        if (auto status = perf::run_program(*event, request_.thread_program_fd); !status) {
            return status;
        }
    }
    if (!request_.wall) {
        auto status = perf::signal_thread(*event, request_.sampler_tid, request_.signal);
        if (!status) {
            return status;
        }
    }
    thread_events_.push_back(std::move(*event));
    return {};
}

Status TickEvents::open_threads(FindOrigins find_origins) {
    Error error{ErrorKind::kSystem, ESRCH, "open the target's events"};
    covered_since_[request_.sampler_tid] = ~std::uint64_t{0};  // it gets none
    for (int pass = 0; pass < kMaxPasses; ++pass) {
        // A thread whose creator was covered when it was started has inherited the event.
        std::unordered_map<pid_t, ThreadOrigin> origins;
        if (pass > 0) {
            for (const ThreadOrigin& origin : find_origins()) {
                origins[origin.tid] = origin;
            }
        }
        bool found_new = false;
        std::vector<pid_t> tids;
        (void)for_each_thread(request_.pid, [&](pid_t tid) {
            tids.push_back(tid);
            return true;
        });
        for (const pid_t tid : tids) {
            if (covered_since_.count(tid) != 0) {
                continue;
            }
            found_new = true;
            const auto origin = origins.find(tid);
            if (origin != origins.end()) {
                const auto creator = covered_since_.find(origin->second.creator);
                if (creator != covered_since_.end() &&
                    creator->second <= origin->second.started_ns) {
                    covered_since_[tid] = origin->second.started_ns;
                    continue;
                }
            }
            auto status = open_thread(tid);
            covered_since_[tid] = static_cast<std::uint64_t>(monotonic_ns());
            if (!status && status.error().system_errno != ESRCH) {
                error = status.error();
                ++refused_;
            }
            // CPU time of a thread that does not tick is told at the next tick of another, when it
            // may be anywhere.
            if (refused_ != 0 && !request_.wall) {
                return tl::unexpected(error);
            }
        }
        if (!found_new) {
            break;
        }
    }
    if (thread_events_.empty()) {
        return tl::unexpected(error);
    }
    return {};
}

bool TickEvents::has_stood_still() {
    // The kernel takes the event off a CPU that goes offline, and does not put it back. A tenth
    // less than the time that has passed is more than two clocks differ by.
    const auto running_ns =
        static_cast<std::int64_t>(perf::read_running_ns(wall_event_).value_or(0));
    const std::int64_t now_ns = monotonic_ns();
    const std::int64_t ran_ns = running_ns - std::exchange(wall_running_ns_, running_ns);
    const std::optional<std::int64_t> looked_ns = std::exchange(wall_looked_ns_, now_ns);
    return looked_ns && ran_ns < (now_ns - *looked_ns) / 10 * 9;
}

Status TickEvents::keep_ticking() {
    if (wall_cpu_ < 0 || !has_stood_still()) {
        return {};
    }
    wall_looked_ns_.reset();
    if (auto status = open_wall_clock(); !status) {
        return status;
    }
    return perf::enable(wall_event_);
}

}  // namespace echion::engine
