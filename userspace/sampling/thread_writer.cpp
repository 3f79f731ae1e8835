#include "sampling/thread_writer.h"

#include <algorithm>

namespace echion::sampling {

void ThreadWriter::announce(TrackedThread& thread) {
    thread.is_announced = true;
    ticks_.encoder().thread(thread.id, interpreters_.of(thread).head.id, thread.native_id,
                            thread.name_view());
}

void ThreadWriter::end(TrackedThread& thread) {
    if (thread.is_announced) {
        ticks_.encoder().thread_end(thread.id);
        thread.is_announced = false;
        thread.share = TrackedThread::Share::kAll;
    }
}

void ThreadWriter::forget(TrackedThread& thread) {
    const std::int64_t known_ns = known_until_ns(thread);  // the kernel may know, by its slot
    watch_.detach(thread);
    if (thread.is_announced && !options_.cpu_mode &&
        ticks_.now_ns() - known_ns > ticks_.longest_gap_ns()) {
        write_missed_since(thread, known_ns);  // it has run to its end since
    }
    end(thread);
    threads_.remove(thread);
}

void ThreadWriter::write_missed_since(TrackedThread& thread, std::int64_t known_ns) {
    const std::int64_t missed_ns = std::max<std::int64_t>(ticks_.tick_ns() - known_ns, 0);
    ticks_.encoder().missed(thread.id, static_cast<std::uint64_t>(missed_ns));
    thread.missed_tick_ns = ticks_.tick_ns();
    thread.missed_ns = static_cast<std::uint64_t>(missed_ns);
}

/// Until when it is known what the thread did. From then on, or from its beginning if that was
/// later, nobody has looked.
std::int64_t ThreadWriter::known_until_ns(const TrackedThread& thread) const {
    // What the GIL says since then: its last holder can have had it again meanwhile. Where the
    // kernel tells who has run, that one may not have been read, as it had not run by then.
    const bool has_slot = thread.slot != TrackedThread::kNoSlot;
    const std::int64_t held_ns = has_slot ? 0 : interpreters_.gil_of(thread).held_before_ns;
    const std::int64_t looked_ns = std::max(ticks_.last_look_ns(), held_ns);
    if (thread.seen_ns == 0 && ticks_.has_looked() && has_slot) {
        if (const auto state = watch_.read(thread.slot);
            state && state->generation == thread.slot_generation) {
            // Its thread may be older than this thread state: what that did before is no gap.
            return std::max(looked_ns, static_cast<std::int64_t>(state->started_ns));
        }
    }
    return std::max(looked_ns, thread.seen_ns);
}

/// Whether the thread has had the stack that was copied at `at_ns` since `since_ns` at the latest:
/// it left its CPU by then and has not run again. A sampler without a CPU of its own, as where the
/// scheduler shares CPUs out by session, then still knows all but the moment before.
bool ThreadWriter::has_waited_since(const TrackedThread& thread, std::int64_t since_ns,
                                    std::int64_t at_ns) const {
    if (thread.slot == TrackedThread::kNoSlot) {
        return false;
    }
    const auto state = watch_.read(thread.slot);
    if (!state || state->generation != thread.slot_generation || state->is_on_cpu()) {
        return false;
    }
    const auto left_ns = static_cast<std::int64_t>(state->off_cpu_since_ns);
    return left_ns != 0 && left_ns <= std::min(since_ns, at_ns);
}

bool ThreadWriter::write_stack(TrackedThread& thread, const AssignedStack& stack,
                               std::uint8_t flags, bool may_have_run, std::int64_t at_ns) {
    const std::size_t kept = thread.stack.must_resend ? 0 : stack.kept;
    const bool is_same = kept == stack.frame_count && kept == thread.stack.frame_count &&
                         flags == thread.stack.flags && !thread.stack.must_resend;
    thread.stack.frame_count = static_cast<std::uint32_t>(stack.frame_count);
    thread.stack.flags = flags;
    if (!options_.cpu_mode && (may_have_run || !is_same)) {
        const std::int64_t longest_gap_ns = ticks_.longest_gap_ns();
        const std::int64_t known_ns = known_until_ns(thread);
        // A thread's first stack is given the time since the tick before: not that of a gap in
        // which the thread began.
        const bool began_in_gap = thread.seen_ns == 0 && known_ns > ticks_.last_look_ns() &&
                                  ticks_.tick_ns() - ticks_.last_look_ns() > longest_gap_ns;
        // Earlier parts of a tick that others interrupted have gone to the stack of before.
        const bool is_unknown = at_ns - known_ns > longest_gap_ns &&
                                (ticks_.part_since_ns() - known_ns > longest_gap_ns ||
                                 !has_waited_since(thread, known_ns + longest_gap_ns, at_ns));
        if (is_unknown || began_in_gap) {
            write_missed_since(thread, known_ns);
        }
    }
    if (is_same) {
        return false;
    }
    thread.stack.must_resend = false;
    ticks_.encoder().stack(thread.id, flags, static_cast<std::uint32_t>(kept),
                           {thread.stack.refs + kept, stack.frame_count - kept});
    ticks_.split();
    return true;
}

void ThreadWriter::write_share(TrackedThread& thread, std::uint32_t parts) {
    const auto share = parts == 0 ? TrackedThread::Share::kNone : TrackedThread::Share::kAll;
    if (thread.is_announced && thread.share != share) {
        thread.share = share;
        ticks_.encoder().share(thread.id, parts);
    }
}

void ThreadWriter::write_no_stack(TrackedThread& thread) {
    if (thread.is_announced && (thread.stack.frame_count > 0 || thread.stack.must_resend)) {
        ticks_.encoder().stack(thread.id, 0, 0, {});
        thread.stack.frame_count = 0;
        thread.stack.flags = 0;
        thread.stack.must_resend = false;
    }
}

void ThreadWriter::write_cpu(TrackedThread& thread, std::int64_t cpu_ns) {
    const std::int64_t used_ns = cpu_ns - thread.cpu_ns;
    if (used_ns > ticks_.longest_gap_ns()) {
        ticks_.encoder().missed(thread.id, static_cast<std::uint64_t>(used_ns));
    } else if (used_ns > 0) {
        ticks_.encoder().cpu(thread.id, static_cast<std::uint64_t>(used_ns));
    }
    thread.cpu_ns = std::max(thread.cpu_ns, cpu_ns);
}

}  // namespace echion::sampling
