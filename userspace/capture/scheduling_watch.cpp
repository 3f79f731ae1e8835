#include "capture/scheduling_watch.h"

#include <time.h>

#include "base/clock.h"
#include "base/function_ref.h"
#include "platform/process_modules.h"
#include "platform/thread_clock.h"

namespace echion::capture {
namespace {

// Between two looks at the threads that are not settled.
constexpr std::int64_t kLookNs = 200'000;
constexpr int kVisits = 3;

bool is_running(char kernel_state) { return kernel_state == 'R'; }

bool has_ended(char kernel_state) {
    return kernel_state == 'Z' || kernel_state == 'X' || kernel_state == 'x';
}

void pause() {
    const timespec moment = make_timespec(kLookNs);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
}

}  // namespace

Result<SchedulingWatch> SchedulingWatch::make(std::size_t max_threads) {
    auto watches = FixedArray<RunWatch>::make(max_threads);
    if (!watches) {
        return tl::unexpected(watches.error());
    }
    SchedulingWatch result;
    result.watches_ = std::move(*watches);
    return result;
}

void SchedulingWatch::begin(pid_t pid) {
    pid_ = pid;
    lacks_counts_ = false;
}

Result<ThreadRun> SchedulingWatch::read_counts(const CapturedThread& thread) const {
    if (pid_ != kOwnProcess) {
        return read_thread_run(pid_, thread.tid);
    }
    ThreadRun run;
    run.run_ns = read_clock_ns(thread_cpu_clock(thread.native_id));
    if (run.run_ns == 0) {
        return fail(ErrorKind::kNotReady, "no CPU clock of a thread");
    }
    return run;
}

void SchedulingWatch::look(std::size_t index, CapturedThread& thread, char kernel_state) {
    if (!is_running(kernel_state)) {
        watches_[index].reset();
        thread.scheduling = has_ended(kernel_state) ? Scheduling::kUnknown : Scheduling::kWaiting;
        return;
    }
    thread.scheduling = Scheduling::kUnknown;
    if (const auto run = read_counts(thread)) {
        watches_[index].look(monotonic_ns(), *run);
    } else if (run.error().kind == ErrorKind::kNotReady) {
        lacks_counts_ = true;
    }
}

void SchedulingWatch::look_again(RunWatch& watch, CapturedThread& thread) {
    if (const auto run = read_counts(thread)) {
        watch.look(monotonic_ns(), *run);
    }
    thread.scheduling = watch.verdict();
}

void SchedulingWatch::settle(SameCpu& same_cpu, std::span<CapturedThread> threads, std::size_t from,
                             std::size_t end, bool may_follow) {
    using Settle = FunctionRef<void(RunWatch&, CapturedThread&)>;
    // Returns how many are left.
    const auto for_each_unsettled = [&](Settle settle_one) {
        std::size_t left = 0;
        for (std::size_t i = from; i < end; ++i) {
            CapturedThread& thread = threads[i];
            const bool is_settled = thread.is_gone || thread.is_skipped ||
                                    !is_running(thread.kernel_state) ||
                                    thread.scheduling != Scheduling::kUnknown;
            if (!is_settled && watches_[i].has_begun()) {
                settle_one(watches_[i], thread);
                left += thread.scheduling == Scheduling::kUnknown;
            }
        }
        return left;
    };
    const auto look = [this](RunWatch& watch, CapturedThread& thread) {
        look_again(watch, thread);
    };
    std::size_t left = for_each_unsettled(look);
    if (left > 0 && pid_ == kOwnProcess) {
        pause();
        for_each_unsettled(look);
        // The clocks of those that are left would have gone on, had they run.
        for_each_unsettled(
            [](RunWatch&, CapturedThread& thread) { thread.scheduling = Scheduling::kRunnable; });
        return;
    }
    const std::int64_t deadline_ns = monotonic_ns() + scheduler_tick_ns() * 3 / 2;
    while (left > 0 && monotonic_ns() < deadline_ns) {
        pause();
        left = for_each_unsettled(look);
    }
    if (left > 0) {
        for_each_unsettled([&](RunWatch& watch, CapturedThread& thread) {
            visit(same_cpu, watch, thread, may_follow);
        });
    }
}

void SchedulingWatch::visit(SameCpu& same_cpu, RunWatch& watch, CapturedThread& thread,
                            bool may_follow) {
    for (int i = 0; i < kVisits; ++i) {
        const auto stat = read_thread_stat(pid_, thread.tid);
        if (!stat) {
            return;
        }
        if (stat->cpu == same_cpu.own_cpu()) {
            // It is not on this CPU, where we are. Had it left it for us, or come to it, since the
            // watch began, its counts would have changed.
            look_again(watch, thread);
            if (thread.scheduling == Scheduling::kUnknown && is_running(stat->state)) {
                thread.scheduling = Scheduling::kRunnable;
            }
            return;
        }
        if (!may_follow || !same_cpu.move_to(stat->cpu)) {
            return;
        }
    }
}

}  // namespace echion::capture
