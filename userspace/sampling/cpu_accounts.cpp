#include "sampling/cpu_accounts.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "platform/thread_clock.h"

namespace echion::sampling {
namespace {

// How often CPU time that no thread's clock shows is looked for.
constexpr std::int64_t kSettlePeriodNs = 100'000'000;
// Less of it waits for the next look.
constexpr std::int64_t kLeastUnseenNs = 1'000'000;
// The stand-in for threads that were not seen: behind those that Python knows.
constexpr std::uint32_t kUnseenId = cpython::kMaxThreadStates;
static_assert(kUnseenId < stream::kMaxThreads);

bool is_first_thread(const TrackedThread& thread) {
    return thread.native_id == static_cast<std::uint32_t>(getpid());
}

std::int64_t used_by_now(const engine::CpuState& state, std::int64_t now_ns) {
    return static_cast<std::int64_t>(state.cpu_ns_at(static_cast<std::uint64_t>(now_ns)));
}

}  // namespace

Status CpuAccounts::reserve() {
    auto unlisted = UnlistedThreads::make();
    if (!unlisted) {
        return tl::unexpected(unlisted.error());
    }
    unlisted_ = std::move(*unlisted);
    return {};
}

void CpuAccounts::start(const ProcessFacts& facts, std::int64_t unstarted_cpu_ns) {
    from_birth_ = facts.is_launch;
    used_before_ns_ = facts.used_cpu_ns;
    unstarted_ns_ = unstarted_cpu_ns;
    io_tid_ = facts.io_tid;
}

void CpuAccounts::attach(TrackedThread& thread) {
    watch_.attach(thread);
    unlisted_.take_over(thread, ticks_.encoder());
}

void CpuAccounts::open(TrackedThread& thread) {
    if (!has_own_slot(thread) && !thread.is_second) {
        attach(thread);
        succeed_former_state(thread);
    }
    if (!has_own_slot(thread) && thread.cpu_ns == 0 && from_birth_ && is_first_thread(thread)) {
        thread.cpu_ns = used_before_ns_;
    }
}

void CpuAccounts::begin(TrackedThread& thread) {
    const std::int64_t told_ns = thread.cpu_ns;
    watch_.attach(thread);
    if (!has_own_slot(thread)) {
        return;
    }
    thread.cpu_ns = std::max(thread.cpu_ns, told_ns);
    if (const auto state = watch_.read(thread.slot); state && !thread.began_under_watch) {
        thread.cpu_ns = used_by_now(*state, ticks_.now_ns());
    }
    unlisted_.take_over(thread, ticks_.encoder());
}

void CpuAccounts::hand_over(TrackedThread& from, TrackedThread& to) {
    to.cpu_ns = from.cpu_ns;
    to.began_under_watch = from.began_under_watch;
    watch_.hand_over(from, to);
}

void CpuAccounts::close(TrackedThread& thread) {
    settled_ns_ += thread.cpu_ns;
    watch_.detach(thread);
}

bool CpuAccounts::note_unlisted(std::uint32_t slot) {
    const UnlistedThreads::Tick tick{ticks_.now_ns(), ticks_.longest_gap_ns(), options_.cpu_mode};
    return unlisted_.note(slot, watch_, ticks_.encoder(), tick);
}

void CpuAccounts::forget_announcements() {
    is_unseen_announced_ = false;
    if (watch_.is_open()) {
        unlisted_.forget_announcements();
    }
}

void CpuAccounts::write_unstarted() {
    if (unstarted_ns_ == 0) {
        return;
    }
    for (TrackedThread& thread : threads_.with_state()) {
        if (!thread.has_begun || thread.is_second || !is_first_thread(thread)) {
            continue;
        }
        const std::int64_t cpu_ns = std::exchange(unstarted_ns_, 0);
        if (cpu_ns > thread.cpu_ns) {
            naming_.introduce(thread);
            ticks_.encoder().cpu(thread.id, static_cast<std::uint64_t>(cpu_ns - thread.cpu_ns));
            thread.cpu_ns = cpu_ns;
            ticks_.end_part();  // in one tick it would go to the stack that follows
        }
        return;
    }
}

void CpuAccounts::write_up_to(TrackedThread& thread, std::int64_t cpu_ns) {
    if (cpu_ns > thread.cpu_ns) {
        naming_.introduce(thread);
        writer_.write_cpu(thread, cpu_ns);
    }
}

void CpuAccounts::write(TrackedThread& thread) {
    if (!thread.has_begun || thread.is_second) {
        return;
    }
    if (has_own_slot(thread)) {
        if (const auto state = watch_.read(thread.slot);
            state && state->generation == thread.slot_generation) {
            write_up_to(thread, used_by_now(*state, ticks_.now_ns()));
        }
        return;
    }
    if (thread.native_id == 0) {
        return;
    }
    const std::int64_t cpu_ns = memory_.read_cpu_ns(thread);
    if (thread.cpu_ns == 0 && !thread.began_under_watch) {
        thread.cpu_ns = cpu_ns;  // what it used before is not this profile's
    } else if (thread.cpu_ns == 0) {
        skip_told_as_unseen(thread, cpu_ns);
    }
    write_up_to(thread, cpu_ns);
}

/// Whether the kernel's thread is still there, of a state that has left.
bool CpuAccounts::lives_on(const TrackedThread& thread) {
    const std::int64_t cpu_ns = memory_.read_cpu_ns(thread);
    return cpu_ns != 0 && cpu_ns >= thread.cpu_ns;  // else the number is another thread's
}

void CpuAccounts::write_after_leaving(TrackedThread& thread) {
    write(thread);
    writer_.write_no_stack(thread);
}

void CpuAccounts::write_all(bool is_last) {
    std::int64_t living_ns = 0;
    std::size_t left_count = 0;
    for (TrackedThread& thread : threads_.all()) {
        thread.lives_on = thread.has_left && !has_own_slot(thread) && lives_on(thread);
        if (thread.has_left && !has_own_slot(thread) && !thread.lives_on) {
            ++left_count;  // its clock is gone
            settled_ns_ += thread.cpu_ns;
            continue;
        }
        if (thread.has_left) {
            write_after_leaving(thread);
        } else {
            write(thread);
        }
        living_ns += thread.is_second ? 0 : thread.cpu_ns;
    }
    const bool is_due = ticks_.now_ns() - last_settled_ns_ >= kSettlePeriodNs;
    if (!watch_.is_open() && (left_count > 0 || is_due || is_last || !ticks_.has_looked())) {
        settle_unclaimed(living_ns, left_count, is_last);
    }
}

void CpuAccounts::settle_unclaimed(std::int64_t living_ns, std::size_t left_count, bool is_last) {
    // What the process has used beyond all threads that have a clock was used by threads that have
    // ended since their last sample, each an interval or two before; by threads that began and
    // ended between two ticks; and by threads that Python does not know.
    memory_.clock_calls += 3;
    last_settled_ns_ = ticks_.now_ns();
    const std::int64_t used_ns = read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) -
                                 read_clock_ns(CLOCK_THREAD_CPUTIME_ID) -
                                 read_clock_ns(thread_cpu_clock(io_tid_));
    if (!ticks_.has_looked()) {
        settled_ns_ = used_ns - living_ns;  // before the start
    }
    std::int64_t unclaimed_ns = used_ns - living_ns - settled_ns_;
    const auto count = static_cast<std::int64_t>(left_count);
    const std::int64_t share_ns =
        count == 0 ? 0
                   : std::clamp<std::int64_t>(unclaimed_ns / count, 0, 2 * ticks_.interval_ns());
    if (left_count > 0) {
        for (TrackedThread& thread : threads_.all()) {
            if (!thread.has_left || thread.lives_on) {
                continue;
            }
            if (thread.has_begun) {
                write_up_to(thread, thread.cpu_ns + share_ns);
                settled_ns_ += share_ns;
                unclaimed_ns -= share_ns;
            }
            writer_.forget(thread);
        }
    }
    // A little may be of a thread that is about to be met, or was used while the clocks were read.
    if (unclaimed_ns > (is_last ? 0 : std::max(ticks_.interval_ns(), kLeastUnseenNs))) {
        write_unseen(unclaimed_ns);
    }
}

void CpuAccounts::write_unseen(std::int64_t cpu_ns) {
    if (!is_unseen_announced_) {
        ticks_.encoder().thread(kUnseenId, 0, 0, "threads not seen");
        is_unseen_announced_ = true;
    }
    ticks_.encoder().cpu(kUnseenId, static_cast<std::uint64_t>(cpu_ns));
    settled_ns_ += cpu_ns;
    unseen_told_ns_ = ticks_.now_ns();
}

void CpuAccounts::skip_told_as_unseen(TrackedThread& thread, std::int64_t cpu_ns) {
    // A thread that ran before Python came to know it: what it used until the stand-in thread's
    // last figure is in that.
    if (!unseen_told_ns_) {
        return;
    }
    thread.cpu_ns = std::max<std::int64_t>(cpu_ns - (ticks_.now_ns() - *unseen_told_ns_), 0);
    settled_ns_ -= thread.cpu_ns;
}

/// A thread that had another state before: a C thread that enters Python again, or any that
/// initialises it again. What has been told of its CPU time is not told again.
void CpuAccounts::succeed_former_state(TrackedThread& thread) {
    if (thread.native_id == 0) {
        return;
    }
    for (TrackedThread& former : threads_.all()) {
        const bool is_same =
            &former != &thread && former.has_left && former.native_id == thread.native_id &&
            former.slot == thread.slot &&
            (has_own_slot(thread) ? former.slot_generation == thread.slot_generation
                                  : lives_on(former));
        if (is_same) {
            write_after_leaving(former);
            thread.cpu_ns = former.cpu_ns;
            former.slot = TrackedThread::kNoSlot;  // not its own any more
            writer_.forget(former);
        }
    }
}

}  // namespace echion::sampling
