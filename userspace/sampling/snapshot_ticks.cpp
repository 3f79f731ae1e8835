// The part of StackSampler that uses the stacks that the kernel copied.

#include "sampling/stack_sampler.h"

namespace echion::sampling {
namespace {

using cpython::has;
using stream::Counter;

}  // namespace

/// The kernel copies what one state has, in whatever interpreter its thread may be, and no tasks.
bool StackSampler::is_alone() {
    return interpreters_.count() <= 1 && threads_.second_count() == 0 && roster_.is_unchanged() &&
           !tasks_.may_run_tasks();
}

std::uint8_t StackSampler::gc_flag(const TrackedThread& thread) {
    const cpython::Layout& layout = memory_.layout();
    Address field;
    if (has(layout.interpreter.gc_collecting)) {
        field = interpreters_.of(thread).head.interpreter +
                cpython::at(layout.interpreter.gc_collecting);
    } else if (has(layout.runtime.gc_collecting)) {
        field = memory_.view.runtime + cpython::at(layout.runtime.gc_collecting);
    } else {
        return 0;
    }
    const auto collecting = memory_.reader.read_value<std::int32_t>(field);
    if (!collecting || *collecting == 0) {
        return 0;
    }
    bool may_collect = false;
    if (has(layout.interpreter.stop_requester)) {
        const auto requester =
            memory_.reader.read_pointer(interpreters_.of(thread).head.interpreter +
                                        cpython::at(layout.interpreter.stop_requester));
        may_collect = requester && *requester == thread.state;
    } else {
        cpython::GilState gil;
        may_collect = memory_.read_gil(interpreters_.gil_of(thread).address, &gil) &&
                      gil.locked > 0 && gil.holder() == thread.state;
    }
    return may_collect ? std::uint8_t{stream::kStackInGc} : std::uint8_t{0};
}

bool StackSampler::write_snapshot(TrackedThread& thread, std::span<cpython::RawFrame> raw,
                                  std::int64_t at_ns) {
    codes_.begin_look(memory_.reader);
    memory_.batch.reset();
    codes_.check(memory_.reader, memory_.batch, raw, {thread.stack.codes, thread.stack.refs_count},
                 thread.stack.refs_look);
    // The thread has run on since: what was not known before may have been another code object.
    if (!codes_.were_known(raw, at_ns)) {
        snapshots_.count_unused();
        return false;
    }
    const std::uint64_t code_reads = codes_.reads();
    const AssignedStack assigned = stack_codes_.assign(thread.stack, raw);
    if (codes_.reads() != code_reads || assigned.lacks_lines) {
        // Lines were read later than the stack, or will be: the plain way proves that they are its
        // own.
        snapshots_.count_unused();
        return false;
    }
    write_stack(thread, assigned, gc_flag(thread), true, at_ns);
    thread.times_between = 0;
    thread.seen_ns = at_ns;
    return true;
}

void StackSampler::use_snapshots() {
    for (TrackedThread* marked : changed_.all()) {
        TrackedThread& thread = *marked;
        const bool is_current = thread.has_snapshot && interpreters_.count() == 1 &&
                                !tasks_.may_run_tasks() &&
                                thread.snapshot_tick_ns == ticks_.now_ns();
        // Of a thread that has left its CPU since, the stack can be read as it is now.
        if (thread.has_state() && thread.may_have_changed && is_current && thread.is_on_cpu &&
            ticks_.now_ns() - thread.snapshot_ns <= ticks_.longest_gap_ns() &&
            write_snapshot(thread, snapshots_.kept(thread), thread.snapshot_ns)) {
            thread.may_have_changed = false;
            thread.has_run = false;
        }
        thread.has_snapshot = false;
    }
}

/// Each snapshot is a sample at its own moment.
void StackSampler::take_event(TrackedThread& thread, const engine::SnapshotView& snapshot) {
    const std::span<cpython::RawFrame> frames = snapshots_.convert(snapshot);
    const std::int64_t at_ns = snapshot.time_ns;
    bool is_used = false;
    if (!frames.empty()) {
        ticks_.begin(at_ns);
        is_used = write_snapshot(thread, frames, at_ns);
        if (is_used) {
            accounts_.write_up_to(thread, static_cast<std::int64_t>(snapshot.head.cpu_ns));
            ring_->count(Counter::kSamples);
        }
        ticks_.commit();
    }
    if (!is_used) {
        // Its CPU time is still to be accounted for: see read_without_snapshot().
        changed_.mark(thread);
        watch_.withhold_snapshots(thread, ticks_.now_ns());
    }
}

void StackSampler::tick_for_events() {
    snapshots_.begin_tick();
    watch_.drain([&](TrackedThread& thread, const engine::SnapshotView& snapshot) {
        take_event(thread, snapshot);
    });
    ticks_.begin(ticks_.now_ns());
    look_at_cpus();
    roster_.refresh();
    tasks_.look(ticks_.now_ns());
    read_without_snapshot();
    naming_.refresh();
    finish_tick();
}

/// Threads that have used CPU time without a snapshot to attribute it to: new ones, deep stacks,
/// pages that the program could not read, those from which snapshots are withheld. They are read
/// the plain way.
void StackSampler::read_without_snapshot() {
    const std::int64_t interval_ns = ticks_.interval_ns();
    for (TrackedThread* ran : std::span(ran_.data(), ran_count_)) {
        TrackedThread& thread = *ran;
        if (!thread.in_use || thread.slot == TrackedThread::kNoSlot) {
            continue;
        }
        if (thread.has_left) {
            accounts_.write_after_leaving(thread);
            continue;
        }
        const auto state = watch_.read(thread.slot);
        const auto now_ns = static_cast<std::uint64_t>(ticks_.now_ns());
        const std::int64_t used_ns =
            state ? static_cast<std::int64_t>(state->cpu_ns_at(now_ns)) - thread.cpu_ns : 0;
        // Its snapshots come by themselves; a tick that has none comes about an interval after the
        // last reading.
        const std::int64_t most_ns =
            thread.is_without_snapshots ? interval_ns / 2 : interval_ns + interval_ns / 2;
        if (used_ns > most_ns) {
            changed_.mark(thread);
        }
        watch_.end_withholding(thread, ticks_.now_ns());
    }
    for (std::uint32_t gil = 0; gil < interpreters_.gil_count(); ++gil) {
        sample_gil(gil, Marking::kMarkedOnly);
    }
    for (TrackedThread* ran : std::span(ran_.data(), ran_count_)) {
        if (ran->in_use && ran->was_read_ns == ticks_.now_ns()) {
            accounts_.write(*ran);
            ring_->count(Counter::kSamples);
        }
    }
}

}  // namespace echion::sampling
