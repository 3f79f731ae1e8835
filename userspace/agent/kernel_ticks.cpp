// The part of StackSampler that lives on what the BPF programs tell it.

#include <algorithm>
#include <array>

#include "agent/stack_sampler.h"
#include "base/clock.h"

namespace echion::agent {
namespace {

using cpython::has;
using stream::Counter;

}  // namespace

void StackSampler::look_at_cpus() {
    ran_count_ = 0;
    watch_.look(
        [&](std::uint32_t slot) { note_unlisted(slot); },
        [&](TrackedThread& thread) {
            if (ran_count_ < ran_.capacity()) {
                ran_[ran_count_++] = &thread;
            }
        },
        [&](TrackedThread& thread, const engine::CpuState& state) { end_slot(thread, state); });
}

void StackSampler::note_unlisted(std::uint32_t slot) {
    const UnlistedThreads::Tick tick{now_ns_, longest_gap_ns(), options_.cpu_mode};
    if (unlisted_.note(slot, watch_, *encoder_, tick)) {
        for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
            interpreters_[i].list_changed = true;
        }
    }
}

void StackSampler::end_slot(TrackedThread& thread, const engine::CpuState& state) {
    if (options_.cpu_mode && state.generation == thread.slot_generation) {
        write_cpu_up_to(thread, static_cast<std::int64_t>(state.on_cpu_ns));
    }
    if (thread.has_left) {
        forget_thread(thread);
        return;
    }
    watch_.detach(thread);
    interpreters_[thread.interpreter].list_changed = true;
}

/// Whether the thread has no frame below this one, whose stack may be gone by now: then the answer
/// is no, unless it is known already.
bool StackSampler::is_first_of_stack(const echion_frame& root) {
    const Address frame(static_cast<std::uintptr_t>(root.frame));
    Address& known =
        stack_starts_[frame.value() / cpython::kStackChunkBytes % stack_starts_.size()];
    if (known != frame) {
        std::array<std::byte, cpython::kStackHeadBytes> head{};
        if (!reader_.read_bytes(frame - head.size(), head.data(), head.size()) ||
            !cpython::is_stack_head(head)) {
            return false;
        }
        known = frame;
    }
    return true;
}

bool StackSampler::convert(const engine::SnapshotView& snapshot, std::span<cpython::RawFrame> out,
                           std::size_t* count) {
    ++tally_.snapshots;
    *count = 0;
    bool is_usable = snapshot.head.end == ECHION_SNAPSHOT_COMPLETE &&
                     snapshot.frames.size() <= std::min(out.size(), options_.max_frames);
    for (const echion_frame& frame : snapshot.frames) {
        const Address code(static_cast<std::uintptr_t>(frame.code));
        if (!is_usable || code == codes_.trampoline()) {
            continue;
        }
        is_usable = cpython::make_raw_frame(
            *view_.layout, code, static_cast<std::intptr_t>(frame.instruction), &out[*count]);
        ++*count;
    }
    // The thread may stand between two frames (see FrameWalker): the plain way tells.
    is_usable = is_usable && *count > 0 &&
                (!has(view_.layout->frame.owner) || is_first_of_stack(snapshot.frames.back()));
    tally_.snapshots_unused += !is_usable;
    return is_usable;
}

std::uint8_t StackSampler::gc_flag(const TrackedThread& thread) {
    const cpython::Layout& layout = *view_.layout;
    const Address base = interpreters_[thread.interpreter].head.interpreter;
    Address field;
    if (has(layout.interpreter.gc_collecting)) {
        field = base + static_cast<std::size_t>(layout.interpreter.gc_collecting);
    } else if (has(layout.runtime.gc_collecting)) {
        field = view_.runtime + static_cast<std::size_t>(layout.runtime.gc_collecting);
    } else {
        return 0;
    }
    const auto collecting = reader_.read_value<std::int32_t>(field);
    if (!collecting || *collecting == 0) {
        return 0;
    }
    cpython::GilState gil;
    const Address gil_address = gils_[interpreters_[thread.interpreter].gil].address;
    const bool holds_gil =
        read_gil(gil_address, &gil) && gil.locked > 0 && gil.holder() == thread.state;
    return holds_gil ? std::uint8_t{stream::kStackInGc} : std::uint8_t{0};
}

void StackSampler::keep_snapshots() {
    snapshot_raw_used_ = 0;
    watch_.drain([&](TrackedThread& thread, const engine::SnapshotView& snapshot) {
        std::size_t count = 0;
        const std::span out(snapshot_raw_.data() + snapshot_raw_used_,
                            snapshot_raw_.capacity() - snapshot_raw_used_);
        thread.has_snapshot = convert(snapshot, out, &count);
        thread.snapshot_first = snapshot_raw_used_;
        thread.snapshot_count = count;
        thread.snapshot_ns = snapshot.time_ns;
        thread.snapshot_tick_ns = now_ns_;
        snapshot_raw_used_ += count;
    });
}

bool StackSampler::is_alone() {
    const auto head = reader_.read_pointer(
        view_.runtime + static_cast<std::size_t>(view_.layout->runtime.interpreters_head));
    return interpreter_count_ <= 1 && second_count_ == 0 && head && *head == interpreters_head_;
}

void StackSampler::use_snapshots() {
    for (std::size_t i = 0; i < changed_count_; ++i) {
        TrackedThread& thread = *changed_[i];
        // The kernel copies what one state has, in whatever interpreter the thread may be.
        const bool is_current =
            thread.has_snapshot && thread.snapshot_tick_ns == now_ns_ && interpreter_count_ == 1;
        // Of a thread that has left its CPU since, the stack can be read as it is now.
        if (thread.in_use && !thread.has_left && thread.may_have_changed && is_current &&
            thread.is_on_cpu && now_ns_ - thread.snapshot_ns <= longest_gap_ns()) {
            const std::span raw(snapshot_raw_.data() + thread.snapshot_first,
                                thread.snapshot_count);
            if (write_snapshot(thread, raw, thread.snapshot_ns)) {
                thread.may_have_changed = false;
                thread.has_run = false;
            }
        }
        thread.has_snapshot = false;
    }
}

void StackSampler::tick_for_events(std::int64_t now_ns) {
    // Each snapshot is a sample at its own moment.
    watch_.drain([&](TrackedThread& thread, const engine::SnapshotView& snapshot) {
        std::size_t count = 0;
        if (!convert(snapshot, {snapshot_raw_.data(), snapshot_raw_.capacity()}, &count)) {
            return;  // its CPU time is still to be accounted for: see read_without_snapshot()
        }
        const std::int64_t at_ns = snapshot.time_ns;
        begin(at_ns);
        if (!write_snapshot(thread, {snapshot_raw_.data(), count}, at_ns)) {
            mark(thread);
            commit();
            return;
        }
        write_cpu_up_to(thread, static_cast<std::int64_t>(snapshot.head.cpu_ns));
        ring_->count(Counter::kSamples);
        commit();
    });
    begin(now_ns);
    look_at_cpus();
    refresh_interpreters(now_ns);
    read_without_snapshot();
    refresh_names();
    finish();
}

void StackSampler::read_without_snapshot() {
    // Threads that have used CPU time without a snapshot to attribute it to: new ones, deep stacks,
    // pages that the program could not read. They are read the plain way.
    for (std::size_t i = 0; i < ran_count_; ++i) {
        TrackedThread& thread = *ran_[i];
        if (!thread.in_use || thread.slot == TrackedThread::kNoSlot) {
            continue;
        }
        if (thread.has_left) {
            write_cpu_after_leaving(thread);
            continue;
        }
        const auto state = watch_.read(thread.slot);
        const std::int64_t used_ns =
            state
                ? static_cast<std::int64_t>(state->cpu_ns_at(static_cast<std::uint64_t>(now_ns_))) -
                      thread.cpu_ns
                : 0;
        if (used_ns > tick_interval_ns_ + tick_interval_ns_ / 2) {
            mark(thread);
        }
    }
    for (std::uint32_t gil = 0; gil < gil_count_; ++gil) {
        sample_gil(gil, Marking::kMarkedOnly);
    }
    for (std::size_t i = 0; i < ran_count_; ++i) {
        TrackedThread& thread = *ran_[i];
        if (thread.in_use && thread.was_read_ns == now_ns_) {
            write_cpu(thread);
            ring_->count(Counter::kSamples);
        }
    }
}

}  // namespace echion::agent
