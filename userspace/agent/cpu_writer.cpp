// The part of StackSampler that writes CPU time: of threads that Python knows, of those that it
// does not, and of those that have ended.

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "agent/stack_sampler.h"
#include "base/clock.h"
#include "platform/thread_clock.h"

namespace echion::agent {
namespace {

// How often CPU time that no thread's clock shows is looked for.
constexpr std::int64_t kSettlePeriodNs = 100'000'000;
// Less of it waits for the next look.
constexpr std::int64_t kLeastUnseenNs = 1'000'000;

}  // namespace

/// What the main thread used while Python had not started is time without a stack. It would else be
/// time that nobody looked at, once it is long. To be called between two rounds of reading.
void StackSampler::tell_unstarted_cpu() {
    for (std::size_t i = 0; i < threads_.slots() && unstarted_cpu_ns_ > 0; ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (!thread.in_use || thread.has_left || !thread.has_begun || thread.is_second ||
            thread.native_id != static_cast<std::uint32_t>(getpid())) {
            continue;
        }
        const std::int64_t used_ns = std::exchange(unstarted_cpu_ns_, 0) - thread.cpu_ns;
        if (used_ns <= 0) {
            return;
        }
        announce(thread);
        encoder_->cpu(thread.id, static_cast<std::uint64_t>(used_ns));
        thread.cpu_ns += used_ns;
        // In one tick it would go to the stack that follows.
        commit();
        encoder_->continue_tick(1);
        ++previous_ns_;
    }
}

void StackSampler::write_cpu_up_to(TrackedThread& thread, std::int64_t cpu_ns) {
    if (cpu_ns <= thread.cpu_ns) {
        return;
    }
    if (!thread.is_announced) {
        announce(thread);
    }
    const auto used_ns = static_cast<std::uint64_t>(cpu_ns - thread.cpu_ns);
    if (cpu_ns - thread.cpu_ns > longest_gap_ns()) {
        encoder_->missed(thread.id, used_ns);
    } else {
        encoder_->cpu(thread.id, used_ns);
    }
    thread.cpu_ns = cpu_ns;
}

std::int64_t StackSampler::read_thread_cpu_ns(const TrackedThread& thread) {
    ++clock_reads_;
    return thread.native_id == 0 ? 0 : read_clock_ns(thread_cpu_clock(thread.native_id));
}

void StackSampler::write_cpu(TrackedThread& thread) {
    if (!thread.has_begun || thread.is_second) {
        return;
    }
    if (thread.slot != TrackedThread::kNoSlot) {
        if (const auto state = watch_.read(thread.slot);
            state && state->generation == thread.slot_generation) {
            write_cpu_up_to(thread, static_cast<std::int64_t>(
                                        state->cpu_ns_at(static_cast<std::uint64_t>(now_ns_))));
        }
        return;
    }
    if (thread.native_id == 0) {
        return;
    }
    const std::int64_t cpu_ns = read_thread_cpu_ns(thread);
    if (thread.cpu_ns == 0 && !thread.began_under_watch) {
        thread.cpu_ns = cpu_ns;  // what it used before is not this profile's
    } else if (thread.cpu_ns == 0) {
        skip_told_as_unseen(thread, cpu_ns);
    }
    write_cpu_up_to(thread, cpu_ns);
}

/// Whether the kernel's thread is still there, of a state that has left.
bool StackSampler::lives_on(const TrackedThread& thread) {
    const std::int64_t cpu_ns = read_thread_cpu_ns(thread);
    return cpu_ns != 0 && cpu_ns >= thread.cpu_ns;  // else the number is another thread's
}

/// Of a thread that goes on without Python: up to now to its last stack, then to none.
void StackSampler::write_cpu_after_leaving(TrackedThread& thread) {
    write_cpu(thread);
    if (thread.is_announced && (thread.frame_count > 0 || thread.must_resend)) {
        encoder_->stack(thread.id, 0, 0, {});
        thread.frame_count = 0;
        thread.flags = 0;
        thread.must_resend = false;
    }
}

void StackSampler::write_all_cpu(bool is_last) {
    std::int64_t living_ns = 0;
    std::size_t left_count = 0;
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (!thread.in_use) {
            continue;
        }
        thread.lives_on =
            thread.has_left && thread.slot == TrackedThread::kNoSlot && lives_on(thread);
        if (thread.has_left && thread.slot == TrackedThread::kNoSlot && !thread.lives_on) {
            ++left_count;  // its clock is gone
            settled_ns_ += thread.cpu_ns;
            continue;
        }
        if (thread.has_left) {
            write_cpu_after_leaving(thread);
        } else {
            write_cpu(thread);
        }
        living_ns += thread.is_second ? 0 : thread.cpu_ns;
    }
    const bool is_due = now_ns_ - last_settled_ns_ >= kSettlePeriodNs;
    if (!watch_.is_open() && (left_count > 0 || is_due || is_last || !has_ticked_)) {
        settle_unclaimed(living_ns, left_count, is_last);
    }
}

void StackSampler::settle_unclaimed(std::int64_t living_ns, std::size_t left_count, bool is_last) {
    // What the process has used beyond all threads that have a clock was used by threads that have
    // ended since their last sample, each an interval or two before; by threads that began and
    // ended between two ticks; and by threads that Python does not know.
    clock_reads_ += 3;
    last_settled_ns_ = now_ns_;
    const std::int64_t used_ns = read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) -
                                 read_clock_ns(CLOCK_THREAD_CPUTIME_ID) -
                                 read_clock_ns(thread_cpu_clock(io_tid_));
    if (!has_ticked_) {
        settled_ns_ = used_ns - living_ns;  // before the start
    }
    std::int64_t unclaimed_ns = used_ns - living_ns - settled_ns_;
    const auto count = static_cast<std::int64_t>(left_count);
    const std::int64_t share_ns =
        count == 0 ? 0 : std::clamp<std::int64_t>(unclaimed_ns / count, 0, 2 * tick_interval_ns_);
    for (std::size_t i = 0; i < threads_.slots() && left_count > 0; ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (!thread.in_use || !thread.has_left || thread.lives_on) {
            continue;
        }
        if (thread.has_begun) {
            write_cpu_up_to(thread, thread.cpu_ns + share_ns);
            settled_ns_ += share_ns;
            unclaimed_ns -= share_ns;
        }
        forget_thread(thread);
    }
    // A little may be of a thread that is about to be met, or was used while the clocks were read.
    if (unclaimed_ns > (is_last ? 0 : std::max(tick_interval_ns_, kLeastUnseenNs))) {
        write_unseen_cpu(unclaimed_ns);
    }
}

void StackSampler::write_unseen_cpu(std::int64_t cpu_ns) {
    // A number behind those of the threads that Python knows.
    constexpr std::uint32_t kId = cpython::kMaxThreadStates;
    static_assert(kId < stream::kMaxThreads);
    if (!is_unseen_announced_) {
        encoder_->thread(kId, 0, 0, "threads not seen");
        is_unseen_announced_ = true;
    }
    encoder_->cpu(kId, static_cast<std::uint64_t>(cpu_ns));
    settled_ns_ += cpu_ns;
    unseen_told_ns_ = now_ns_;
}

void StackSampler::skip_told_as_unseen(TrackedThread& thread, std::int64_t cpu_ns) {
    // A thread that ran before Python came to know it: what it used until the stand-in thread's
    // last figure is in that.
    if (!unseen_told_ns_) {
        return;
    }
    thread.cpu_ns = std::max<std::int64_t>(cpu_ns - (now_ns_ - *unseen_told_ns_), 0);
    settled_ns_ -= thread.cpu_ns;
}

/// A thread that had another state before: a C thread that enters Python again, or any that
/// initialises it again. What has been told of its CPU time is not told again.
void StackSampler::succeed_former_state(TrackedThread& thread) {
    for (std::size_t i = 0; i < threads_.slots() && thread.native_id != 0; ++i) {
        TrackedThread& former = threads_.slot(i);
        const bool is_same = &former != &thread && former.in_use && former.has_left &&
                             former.native_id == thread.native_id && former.slot == thread.slot &&
                             (thread.slot != TrackedThread::kNoSlot
                                  ? former.slot_generation == thread.slot_generation
                                  : lives_on(former));
        if (is_same) {
            write_cpu_after_leaving(former);
            thread.cpu_ns = former.cpu_ns;
            former.slot = TrackedThread::kNoSlot;  // not its own any more
            forget_thread(former);
        }
    }
}

}  // namespace echion::agent
