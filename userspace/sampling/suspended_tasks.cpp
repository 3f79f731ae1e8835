#include "sampling/suspended_tasks.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "sampling/round_reader.h"

namespace echion::sampling {

using cpython::at;
using cpython::has;

void SuspendedTasks::forget() {
    for (std::optional<Loop>& loop : loops_) {
        if (loop && loop->owner != nullptr) {
            close(*loop);
        }
    }
    asyncio_.forget();
}

const SuspendedTasks::Loop* SuspendedTasks::find(const TrackedThread& thread) const {
    for (std::size_t i = 0; i < loops_.size() && loop_count_ > 0; ++i) {
        if (loops_[i] && loops_[i]->owner == &thread && loops_[i]->owner_id == thread.id) {
            return &*loops_[i];
        }
    }
    return nullptr;
}

SuspendedTasks::Loop* SuspendedTasks::find(const TrackedThread& thread) {
    return const_cast<Loop*>(std::as_const(*this).find(thread));
}

/// The loop that the thread runs, as far as is known; null: none.
Address SuspendedTasks::find_running_loop(TrackedThread& thread) {
    thread.has_unknown_loop = false;
    if (!running_.has_asyncio(thread)) {
        return {};
    }
    RoundReader round(memory_, thread);
    cpython::ObjectReader objects(round, memory_.layout());
    if (!has(memory_.layout().thread_state.asyncio_running_loop)) {
        if (thread.loop_looked_ns != 0 && find(thread) == nullptr &&
            ticks_.now_ns() - thread.loop_looked_ns < kLookAgainNs) {
            thread.has_unknown_loop = true;
            return {};
        }
        thread.loop_looked_ns = ticks_.now_ns();
        asyncio_.begin_look();
    }
    const auto loop = asyncio_.read_running_loop(objects, thread.state);
    return loop && cpython::is_object_address(*loop) ? *loop : Address();
}

SuspendedTasks::Loop* SuspendedTasks::open(TrackedThread& thread, Address address) {
    for (std::optional<Loop>& place : loops_) {
        if (place && place->owner != nullptr) {
            continue;
        }
        if (!place) {
            place.emplace(memory_, codes_, stack_codes_, asyncio_);
        }
        Loop& loop = *place;
        if (!loop.has_memory) {
            auto prefix = FixedArray<stream::FrameRef>::make(options_.max_frames);
            if (!prefix || !loop.sweep.reserve(options_.max_frames)) {
                ++cut_;
                return nullptr;
            }
            loop.prefix = std::move(*prefix);
            loop.has_memory = true;
        }
        loop.owner = &thread;
        loop.owner_id = thread.id;
        loop.address = address;
        loop.has_read = loop.must_publish = loop.is_outdated = false;
        loop.sweep.clear();
        loop.prefix_count = 0;
        loop.has_waited = loop.has_loop_frame = false;
        loop.task_threads = 0;
        ++loop_count_;
        return &loop;
    }
    ++cut_;
    return nullptr;
}

void SuspendedTasks::close(Loop& loop) {
    cut_ += loop.sweep.is_under_way();
    threads_.end(loop.owner_id);
    loop.owner->must_read_on = false;
    loop.owner = nullptr;
    --loop_count_;
}

bool SuspendedTasks::begin_sweep(Loop& loop, const TrackedThread& thread) {
    const Address interpreter = interpreters_.of(thread).head.interpreter;
    const auto modules =
        memory_.reader.read_pointer(interpreter + at(memory_.layout().interpreter.modules));
    return modules && *modules && loop.sweep.begin(*modules);
}

void SuspendedTasks::read(TrackedThread& thread, std::span<const Address> places, bool is_waiting) {
    if (options_.tasks != TaskMode::kAll || options_.cpu_mode || thread.is_second ||
        !thread.has_begun) {
        return;
    }
    Loop* loop = find(thread);
    const Address address = find_running_loop(thread);
    if (loop != nullptr && loop->address != address) {
        close(*loop);
        loop = nullptr;
    }
    if (!address) {
        return;
    }
    running_.note_loop();
    loop = loop != nullptr ? loop : open(thread, address);
    if (loop == nullptr) {
        return;
    }
    if (std::exchange(loop->has_read, false)) {
        loop->sweep.drop();  // of a round that was not accepted
    }
    const std::int64_t begun_ns = monotonic_ns();
    // Whether the thread may have changed what has been read before.
    const bool is_told = thread.slot != TrackedThread::kNoSlot;
    const std::int64_t cpu_ns = is_told ? 0 : memory_.read_cpu_ns(thread);
    const bool has_run = is_told ? thread.has_run
                                 : cpu_ns == 0 || cpu_ns != loop->swept_cpu_ns ||
                                       ticks_.now_ns() - loop->swept_ns >= kLongestRestNs;
    loop->is_outdated = loop->is_outdated || has_run;
    if (loop->must_publish && loop->sweep.is_complete()) {
        return;  // what has been read is written first
    }
    if (!loop->sweep.is_under_way()) {
        const bool is_early = ticks_.now_ns() - loop->swept_ns < kWaitingShare * loop->spent_ns;
        if (loop->sweep.is_complete() && (is_early || !loop->is_outdated)) {
            return;
        }
        loop->spent_ns = 0;
        loop->is_outdated = false;
        loop->swept_ns = ticks_.now_ns();
        loop->swept_cpu_ns = cpu_ns;
        if (!begin_sweep(*loop, thread)) {
            return;
        }
    }
    loop->sweep.read({interpreters_.of(thread).head.interpreter, thread.state, loop->address},
                     places, begun_ns + most_ns(is_waiting));
    loop->has_read = true;
    loop->spent_ns += monotonic_ns() - begun_ns;
}

std::int64_t SuspendedTasks::most_ns(bool is_waiting) const {
    return std::min(ticks_.interval_ns() / (is_waiting ? kWaitingShare : kRunningShare),
                    kMostReadNs);
}

std::span<const cpython::RawFrame> SuspendedTasks::frames_read(const TrackedThread& thread) const {
    const Loop* loop = find(thread);
    return loop != nullptr && loop->has_read ? loop->sweep.frames()
                                             : std::span<const cpython::RawFrame>();
}

void SuspendedTasks::assign(const TrackedThread& thread) {
    if (Loop* loop = find(thread); loop != nullptr && loop->has_read) {
        loop->sweep.assign();
    }
}

void SuspendedTasks::drop(const TrackedThread& thread) {
    if (Loop* loop = find(thread); loop != nullptr && std::exchange(loop->has_read, false)) {
        loop->sweep.drop();
    }
}

/// Learns what the thread's stack is while the loop waits.
void SuspendedTasks::note_stack(Loop& loop, std::span<const stream::FrameRef> refs, bool runs_task,
                                bool may_run_python) {
    if (loop.prefix_numbering != codes_.numbering()) {
        loop.prefix_numbering = codes_.numbering();
        loop.prefix_count = 0;
        loop.has_waited = false;
    }
    const auto is_prefix = [&](std::size_t count) {
        return loop.prefix_count >= count && refs.size() >= count &&
               std::equal(refs.begin(), refs.begin() + static_cast<std::ptrdiff_t>(count),
                          loop.prefix.data());
    };
    const auto keep = [&](std::size_t count, bool has_waited) {
        if (loop.prefix_count != count || !is_prefix(count)) {
            loop.must_publish = true;  // all stacks change
            loop.progress = {};
        }
        std::copy_n(refs.begin(), count, loop.prefix.data());
        loop.prefix_count = count;
        loop.has_waited = has_waited;
    };
    const std::size_t in_loop = loop_codes_.find_loop(refs);
    loop.has_loop_frame = loop.has_loop_frame || in_loop > 0;
    if (in_loop > 0) {
        const bool is_waiting =
            !runs_task && refs.size() == in_loop + 1 && loop_codes_.is_select(refs[in_loop]);
        if (is_waiting) {
            keep(in_loop + 1, true);
        } else if (!loop.has_waited || !is_prefix(in_loop)) {
            keep(in_loop, false);
        }
    } else if (!loop.has_loop_frame) {
        // A loop that is not written in Python has no frames behind those that have called it.
        const auto label = std::find_if(refs.begin(), refs.end(), [](const stream::FrameRef& ref) {
            return TaskLabels::is_label_id(ref.code_id);
        });
        const auto count = static_cast<std::size_t>(label - refs.begin());
        const bool is_other =
            loop.prefix_count == 0 || count < loop.prefix_count || !is_prefix(loop.prefix_count);
        if (is_other && (runs_task || !may_run_python)) {
            keep(count, true);
        }
    }
}

std::uint32_t SuspendedTasks::accept(TrackedThread& thread, std::span<const stream::FrameRef> refs,
                                     bool runs_task, bool may_run_python) {
    Loop* loop = find(thread);
    if (loop == nullptr) {
        read_on(thread, thread.has_unknown_loop);
        return 1;
    }
    if (loop->has_read) {
        loop->sweep.keep();
    }
    note_stack(*loop, refs, runs_task, may_run_python);
    if (thread.missed_tick_ns == ticks_.tick_ns() && thread.missed_ns > 0) {
        threads_.write_missed(thread, std::exchange(thread.missed_ns, 0));
    }
    const bool is_complete = loop->sweep.is_complete();
    if (is_complete && loop->has_read) {
        loop->progress = {};
        loop->must_publish = true;
    }
    if (is_complete && loop->must_publish) {
        // Where there is no room in the stream, forget_announcements() has it begin again.
        loop->must_publish = false;
        const std::int64_t begun_ns = monotonic_ns();
        if (threads_.publish(thread, loop->sweep, {loop->prefix.data(), loop->prefix_count},
                             loop->progress, begun_ns + most_ns(true))) {
            loop->task_threads = loop->progress.count;
        } else {
            loop->must_publish = true;
        }
        loop->spent_ns += monotonic_ns() - begun_ns;
    }
    read_on(thread, loop->must_publish || loop->sweep.is_under_way() || loop->is_outdated ||
                        (loop->has_read && !is_complete));
    const bool is_waiting = !runs_task && loop->has_waited && refs.size() == loop->prefix_count &&
                            std::equal(refs.begin(), refs.end(), loop->prefix.data());
    return is_waiting && loop->task_threads > 0 ? 0 : 1;
}

/// Has the thread read in the next tick, whether it runs until then or not.
void SuspendedTasks::read_on(TrackedThread& thread, bool must_read_on) {
    thread.must_read_on = must_read_on;
    if (must_read_on) {
        changed_.mark(thread);
    }
}

void SuspendedTasks::look_for_loop(TrackedThread& thread) {
    read_on(thread, options_.tasks == TaskMode::kAll && !options_.cpu_mode);
}

void SuspendedTasks::end_orphans() {
    for (std::size_t i = 0; i < loops_.size() && loop_count_ > 0; ++i) {
        std::optional<Loop>& loop = loops_[i];
        if (loop && loop->owner != nullptr) {
            const TrackedThread& owner = *loop->owner;
            if (!owner.has_state() || owner.id != loop->owner_id || owner.is_second) {
                close(*loop);
            }
        }
    }
}

void SuspendedTasks::forget_announcements() {
    threads_.forget_announcements();
    for (std::optional<Loop>& loop : loops_) {
        if (loop && loop->owner != nullptr) {
            loop->must_publish = true;
            loop->progress = {};
        }
    }
}

std::uint64_t SuspendedTasks::cut() const {
    std::uint64_t cut = cut_ + threads_.cut();
    for (const std::optional<Loop>& loop : loops_) {
        cut += loop ? loop->sweep.cut() : 0;
    }
    return cut;
}

}  // namespace echion::sampling
