// The part of StackSampler that copies the stacks of a group of threads, and proves the copies:
// that no thread changed its stack meanwhile, and that it did not stand where its frames make no
// stack.

#include <time.h>

#include <algorithm>
#include <array>

#include "agent/stack_sampler.h"
#include "base/clock.h"

namespace echion::agent {
namespace {

using cpython::GilState;
using cpython::has;
using cpython::Offset;

// A stack with more frames takes longer to copy than the sampler may keep its CPU.
constexpr std::size_t kDeepFrames = 512;
// Code objects that are copied besides those of the last stack: those of deeper stacks before it,
// in whose place nothing has come since. A thread mostly calls what it has called before.
constexpr std::size_t kRecentCodes = 8;
// Walks after which a page that was not needed any more is no longer fetched ahead.
constexpr std::uint32_t kPageAge = 32;
// When a chain that leads nowhere, or ends at a generator or in the middle of its stack, is what it
// seems: seen so often, after so much CPU time of the thread each time. A thread that waits for a
// CPU may stand there for as long as it likes.
constexpr std::uint32_t kTimesBetweenFrames = 16;
// With the same frame at its end, such as that of a __del__() which runs as the outermost function
// returns: that function has left the chain, and not the stack.
constexpr std::uint32_t kTimesMidway = 2;
constexpr std::int64_t kPastAMomentNs = 2'000;
// For a thread to get past the few instructions in which its chain of frames is not whole. Less,
// and the timer fires before the kernel has switched to it.
constexpr std::int64_t kPauseNs = 20'000;

std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

}  // namespace

bool StackSampler::request(Round& round, std::uint32_t gil_index) {
    const cpython::Layout& layout = *view_.layout;
    const Gil& gil = gils_[gil_index];
    batch_.reset();
    // What is copied directly comes first, so that the rest goes into one system call.
    round.gil_before = batch_.add(gil.address, at(layout.gil.size));
    round.current_before = round.current_after = PageBatch::kNone;
    const Address current_at = cpython::current_state_address(view_);
    if (current_at) {
        round.current_before = batch_.add(current_at, sizeof(void*));
    }
    PageBatch::Handle runtime_collecting = PageBatch::kNone;
    if (has(layout.runtime.gc_collecting)) {
        runtime_collecting =
            batch_.add(view_.runtime + at(layout.runtime.gc_collecting), sizeof(std::int32_t));
    }
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        Interpreter& interpreter = interpreters_[i];
        interpreter.threads_head_copy = PageBatch::kNone;
        interpreter.collecting_copy = runtime_collecting;
        if (interpreter.gil != gil_index) {
            continue;
        }
        const Address base = interpreter.head.interpreter;
        interpreter.threads_head_copy =
            batch_.add(base + at(layout.interpreter.threads_head), sizeof(void*));
        if (has(layout.interpreter.gc_collecting)) {
            interpreter.collecting_copy =
                batch_.add(base + at(layout.interpreter.gc_collecting), sizeof(std::int32_t));
        }
    }
    std::size_t fits = 0;
    for (TrackedThread* thread : round.group) {
        thread->state_copy = batch_.add(thread->state, at(layout.thread_state.size));
        thread->cframe_copy = PageBatch::kNone;
        if (thread->head.cframe) {
            thread->cframe_copy =
                batch_.add(thread->head.cframe + at(layout.cframe.current_frame), sizeof(void*));
        }
        // Room for what closes the round, and for pages that a walk needs besides.
        if (thread->state_copy == PageBatch::kNone || !batch_.add_pages(thread->pages) ||
            batch_.free_bytes() < batch_.capacity_bytes() / 4 || batch_.free_requests() < 64) {
            break;
        }
        ++fits;
    }
    round.group = round.group.first(std::max<std::size_t>(fits, 1));
    codes_.begin_look(reader_);
    batch_.begin_unsearched();
    for (TrackedThread* thread : round.group) {
        const std::size_t count =
            std::min<std::size_t>(thread->frame_count + kRecentCodes, options_.max_frames);
        const std::size_t held = codes_.holds_since(thread->refs_look) ? thread->refs_count : 0;
        codes_.request(batch_, std::span(thread->codes, count).subspan(std::min(held, count)));
    }
    codes_.add_requested(batch_);
    batch_.end_unsearched();
    round.holder_cpu = round.holder_state_after = round.holder_cframe_after = PageBatch::kNone;
    if (round.holder != nullptr) {
        round.holder_runs_on = round.holder->runs_on;
        // Where it is not known which thread runs with this state, no CPU proves anything.
        round.is_followed = can_follow_ && !round.holder->is_apart &&
                            (round.holder->is_placed || !can_change_threads(*round.holder));
        if (round.is_followed) {
            // Last but for the GIL: see SameCpu.
            round.holder_cpu = batch_.add(same_cpu_.cpu_number_address(round.holder->runs_on),
                                          sizeof(std::uint32_t));
        } else {
            if (round.holder->head.cframe) {
                round.holder_cframe_after = batch_.add(
                    round.holder->head.cframe + at(layout.cframe.current_frame), sizeof(void*));
            }
            // After that: it may be copied directly, which would cut the system call in two.
            round.holder_state_after =
                batch_.add(round.holder->state, at(layout.thread_state.size));
        }
    }
    if (current_at) {
        round.current_after = batch_.add(current_at, sizeof(void*));
    }
    round.gil_after = batch_.add(gil.address, at(layout.gil.size));
    return round.gil_after != PageBatch::kNone;
}

StackSampler::CopiedHead StackSampler::take_head(const TrackedThread& thread) const {
    CopiedHead result{};
    const std::byte* copy = batch_.copy(thread.state_copy);
    if (copy == nullptr) {
        return result;
    }
    result.head = cpython::parse_thread_head(*view_.layout, copy);
    result.is_read = true;
    if (!result.head.cframe) {
        result.frame = result.head.frame;
        result.has_frame = true;
    } else if (result.head.cframe == thread.head.cframe) {
        if (const std::byte* expected = batch_.copy(thread.cframe_copy)) {
            result.frame = load_address(expected, 0);
            result.has_frame = true;
        }
    }
    return result;
}

bool StackSampler::walk_one(TrackedThread& thread, const CopiedHead& copied, WalkedStack& out,
                            std::size_t* raw_used) {
    out = {};
    out.first = *raw_used;
    const cpython::ThreadHead& head = copied.head;
    // A thread state that has been freed, and perhaps taken by another thread since, shows here.
    if (!copied.is_read || head.interpreter != thread.head.interpreter ||
        head.id != thread.head.id) {
        return false;
    }
    if (head.next != thread.head.next || head.prev != thread.head.prev) {
        interpreters_[thread.interpreter].list_changed = true;
    }
    Address frame = copied.frame;
    if (!copied.has_frame) {
        const auto current =
            reader_.read_pointer(head.cframe + at(view_.layout->cframe.current_frame));
        if (!current) {
            return false;
        }
        frame = *current;
    }
    const std::uintptr_t thread_id = thread.head.thread_id;
    thread.head = head;
    if (head.thread_id != thread_id || !thread.has_begun) {
        describe_thread(thread);  // a thread that had not begun when it was first seen
    }
    if (interpreter_count_ > 1) {
        place_by_stack(thread);
    }
    out.is_readable = true;
    out.head = frame;
    cpython::FrameWalker walker(*view_.layout, reader_, batch_);
    walker.skip_code(codes_.trampoline());
    const std::size_t room = std::min(options_.max_frames, raw_.capacity() - out.first);
    ++thread.walk;
    out.walk = walker.walk(frame, thread.pages, thread.walk, {raw_.data() + out.first, room});
    if (thread.walk % kPageAge == 0) {
        thread.pages.expire(thread.walk, kPageAge);
    }
    *raw_used += out.walk.count;
    return true;
}

StackSampler::Verdict StackSampler::prove_holder(Round& round, const WalkedStack& stack,
                                                 bool was_cold) {
    if (round.holder->runs_on != round.holder_runs_on) {
        return Verdict::kRetry;  // it is another thread than was thought
    }
    if (round.is_followed && can_follow_) {
        std::uint32_t cpu = ~0U;
        const std::byte* copy = batch_.copy(round.holder_cpu);
        const Address cpu_number = same_cpu_.cpu_number_address(round.holder->runs_on);
        if (!was_cold && copy != nullptr) {
            cpu = load<std::uint32_t>(copy, 0);
        } else if (const auto value = reader_.read_value<std::uint32_t>(cpu_number)) {
            cpu = *value;
        } else {
            return Verdict::kRetry;
        }
        if (cpu == same_cpu_.own_cpu() && same_cpu_.undisturbed()) {
            return Verdict::kProved;
        }
        if (cpu != same_cpu_.own_cpu()) {
            ++tally_.follow_moves;
            if (!same_cpu_.move_to(cpu)) {
                can_follow_ = false;
                refused_ns_ = now_ns_;
            }
        }
        // A thread that waits for its CPU for so long is given another one.
        return stack.walk.count > kDeepFrames ? compare_heads(round, stack, true) : Verdict::kRetry;
    }
    return compare_heads(round, stack, was_cold);
}

StackSampler::Verdict StackSampler::compare_heads(const Round& round, const WalkedStack& stack,
                                                  bool was_cold) {
    // Not a proof, but what there is without one: the newest frame, read before and after.
    cpython::ThreadHead after;
    const std::byte* copy = batch_.copy(round.holder_state_after);
    if (!was_cold && copy != nullptr) {
        after = cpython::parse_thread_head(*view_.layout, copy);
    } else if (const auto head = read_thread_head(reader_, view_, round.holder->state)) {
        after = *head;
    } else {
        return Verdict::kRetry;
    }
    Address frame = after.frame;
    if (after.cframe) {
        copy = batch_.copy(round.holder_cframe_after);
        if (!was_cold && copy != nullptr && after.cframe == round.holder->head.cframe) {
            frame = load_address(copy, 0);
        } else if (const auto current = reader_.read_pointer(
                       after.cframe + at(view_.layout->cframe.current_frame))) {
            frame = *current;
        } else {
            return Verdict::kRetry;
        }
    }
    if (frame != stack.head) {
        return Verdict::kRetry;
    }
    return stack.walk.count == 0 ? Verdict::kProved : Verdict::kUnproved;
}

void StackSampler::read_interpreter_copies() {
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        Interpreter& interpreter = interpreters_[i];
        if (const std::byte* copy = batch_.copy(interpreter.threads_head_copy)) {
            interpreter.list_changed |= load_address(copy, 0) != interpreter.threads_head;
        }
        const std::byte* copy = batch_.copy(interpreter.collecting_copy);
        interpreter.is_collecting = copy != nullptr && load<std::int32_t>(copy, 0) != 0;
    }
}

std::size_t StackSampler::read_group(std::uint32_t gil_index, std::span<TrackedThread*> group,
                                     Address* last_holder, bool is_last) {
    Round round{};
    round.group = group;
    for (TrackedThread* thread : group) {
        if (thread->state == *last_holder) {
            round.holder = thread;
        }
    }
    armed_ns_ = monotonic_ns();
    continue_at(armed_ns_);
    same_cpu_.arm();
    if (!request(round, gil_index)) {
        ++tally_.table_full;
        group[0]->may_have_changed = false;
        return 1;
    }
    const std::int64_t read_from_ns = monotonic_ns();
    const std::size_t left_out = batch_.run(reader_);
    tally_.read_failures += left_out;
    read_ns_ += monotonic_ns() - read_from_ns;
    const std::uint64_t calls = reader_.system_calls();

    const std::byte* before_copy = batch_.copy(round.gil_before);
    const std::byte* after_copy = batch_.copy(round.gil_after);
    if (before_copy == nullptr || after_copy == nullptr) {
        return 0;
    }
    const GilState before =
        cpython::parse_gil(*view_.layout, before_copy, batch_.copy(round.current_before));
    GilState after =
        cpython::parse_gil(*view_.layout, after_copy, batch_.copy(round.current_after));
    read_interpreter_copies();

    std::array<CopiedHead, kGroup> heads;
    for (std::size_t i = 0; i < round.group.size(); ++i) {
        heads[i] = take_head(*round.group[i]);
        if (left_out > 0) {
            batch_.erase_unread(round.group[i]->pages);
        }
    }
    std::array<WalkedStack, kGroup> stacks;
    std::size_t raw_used = 0;
    std::size_t walked = 0;
    const WalkedStack* holder_stack = nullptr;
    for (TrackedThread* thread : round.group) {
        if (walked > 0 && raw_.capacity() - raw_used < options_.max_frames) {
            break;
        }
        if (!walk_one(*thread, heads[walked], stacks[walked], &raw_used)) {
            interpreters_[thread->interpreter].list_changed = true;
        } else if (thread == round.holder) {
            holder_stack = &stacks[walked];
        }
        ++walked;
    }

    const std::uint64_t code_reads = codes_.reads();
    for (std::size_t i = 0; i < walked; ++i) {
        if (stacks[i].is_readable) {
            const TrackedThread& thread = *round.group[i];
            codes_.check(reader_, batch_, {raw_.data() + stacks[i].first, stacks[i].walk.count},
                         {thread.codes, thread.refs_count}, thread.refs_look);
        }
    }

    // What was read besides the round came after it: the evidence has to come after that.
    const bool was_cold = reader_.system_calls() != calls;
    Verdict holder_verdict = Verdict::kRetry;
    if (holder_stack != nullptr) {
        holder_verdict = prove_holder(round, *holder_stack, was_cold);
    }
    if (was_cold && !read_gil(gils_[gil_index].address, &after)) {
        return 0;
    }
    const bool gil_stayed =
        before.holder() == after.holder() && before.switch_number == after.switch_number;
    *last_holder = after.holder();
    const std::int64_t proved_ns = monotonic_ns();
    if (gil_stayed && before.switch_number == gils_[gil_index].sampled.switch_number) {
        gils_[gil_index].held_ns = proved_ns;
    }

    for (std::size_t i = 0; i < walked; ++i) {
        TrackedThread& thread = *round.group[i];
        if (!stacks[i].is_readable) {
            thread.may_have_changed = false;  // gone, most likely: the walk of its list will tell
            continue;
        }
        Verdict verdict = gil_stayed ? Verdict::kProved : Verdict::kRetry;
        if (&thread == round.holder) {
            verdict = holder_verdict;
        } else if (thread.state == before.holder()) {
            verdict = Verdict::kRetry;
        }
        const bool holds_gil = &thread == round.holder && after.locked > 0;
        bool can_pass = true;
        if (verdict != Verdict::kRetry &&
            is_between_frames(thread, stacks[i], holds_gil, &can_pass)) {
            verdict = Verdict::kRetry;
            must_pause_ = can_pass;
        }
        AssignedStack assigned{};
        if (verdict != Verdict::kRetry) {
            const WalkedStack& stack = stacks[i];
            assigned = assign_stack(thread, {raw_.data() + stack.first, stack.walk.count});
            // Code objects that were read to define them were read later than the stack.
            if (codes_.reads() != code_reads && verdict == Verdict::kProved &&
                !still_stands(round, gil_index, before, thread, stack)) {
                thread.must_resend = true;  // of what it had before, part has been written over
                verdict = Verdict::kRetry;
            }
        }
        if (verdict == Verdict::kRetry && !is_last && can_pass) {
            ++tally_.torn_retried;
            return i;  // from this one on again, in a new round
        }
        accept(thread, stacks[i], assigned, verdict, holds_gil);
        thread.seen_ns = proved_ns;
    }
    return walked;
}

bool StackSampler::still_stands(Round& round, std::uint32_t gil_index, const GilState& before,
                                const TrackedThread& thread, const WalkedStack& stack) {
    if (&thread == round.holder) {
        return prove_holder(round, stack, true) != Verdict::kRetry;
    }
    GilState now;
    return read_gil(gils_[gil_index].address, &now) && now.holder() == before.holder() &&
           now.switch_number == before.switch_number;
}

bool StackSampler::is_between_frames(TrackedThread& thread, const WalkedStack& stack,
                                     bool holds_gil, bool* can_pass) {
    const cpython::Walk& walk = stack.walk;
    const bool comes_to_end = walk.count > 0 && !walk.truncated && !walk.broken;
    const bool ends_at_generator = comes_to_end && walk.ends_at_generator;
    const bool ends_midway = comes_to_end && walk.ends_midway;
    const bool leads_nowhere =
        (walk.count == 0 || walk.broken) && thread.head.has_cframe_on_stack(thread.state);
    if (!(leads_nowhere || ends_at_generator || ends_midway)) {
        thread.times_between = 0;
        return false;
    }
    // Who does not hold the GIL waits in C code, with its frames in order.
    if (!holds_gil) {
        return false;
    }
    if (thread.between_root != walk.root) {
        thread.between_root = walk.root;
        thread.times_between = 0;
    }
    const std::int64_t cpu_ns = read_thread_cpu_ns(thread);
    // Since it was last seen there it has not run: others have its CPU, and waiting does not help.
    *can_pass = thread.times_between == 0 || cpu_ns != thread.last_between_cpu_ns;
    thread.last_between_cpu_ns = cpu_ns;
    if (thread.times_between == 0 || cpu_ns - thread.between_cpu_ns > kPastAMomentNs) {
        thread.between_cpu_ns = cpu_ns;
        ++thread.times_between;
    }
    return thread.times_between < (ends_midway ? kTimesMidway : kTimesBetweenFrames);
}

void StackSampler::pause() {
    // Where the sampler holds its CPU, the thread that it reads stands still: let it go on a
    // little.
    must_pause_ = false;
    const timespec moment = make_timespec(kPauseNs);
    ++clock_reads_;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
}

void StackSampler::rest(std::int64_t duration_ns) {
    const timespec rest = make_timespec(duration_ns);
    ++clock_reads_;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, nullptr);
}

void StackSampler::accept(TrackedThread& thread, const WalkedStack& stack,
                          const AssignedStack& assigned, Verdict verdict, bool holds_gil) {
    const bool is_line_missing = codes_.take_missing_lines();
    if (verdict != Verdict::kRetry) {
        note_frames(thread, assigned.frame_count);
    }
    const auto is_by_another = [&] {
        return thread.slot != TrackedThread::kNoSlot && !thread.has_run && !thread.must_resend &&
               can_change_threads(thread) &&
               (assigned.kept != assigned.frame_count || assigned.kept != thread.frame_count);
    };
    if (verdict != Verdict::kRetry && is_by_another()) {
        watch_
            .look_again();  // its thread may have come back since the tick's look, before the copy
    }
    // Without BPF a thread that waits where it did is taken to have waited there all the time.
    const bool may_have_run = thread.slot != TrackedThread::kNoSlot ? thread.has_run : holds_gil;
    thread.was_read_ns = now_ns_;
    if (verdict == Verdict::kRetry) {
        ++tally_.torn_marked;
        // No stack rather than a wrong one; and not for longer than to the next tick, whether the
        // thread runs until then or not.
        thread.has_run = true;
        write_stack(thread, assign_stack(thread, {}), stream::kStackInvalid, may_have_run,
                    armed_ns_);
        return;
    }
    if (is_by_another()) {
        displace(thread);  // the thread that it was placed on has not run
        return;
    }
    thread.may_have_changed = false;
    thread.has_run = false;
    tally_.unproved += verdict == Verdict::kUnproved;
    std::uint8_t flags = 0;
    if (stack.walk.truncated) {
        ++tally_.truncated;
        flags |= stream::kStackTruncated;
    }
    if (stack.walk.broken) {
        ++tally_.invalid;
        flags |= stream::kStackInvalid;
    }
    // The collector runs with the GIL held, so whoever holds it while one runs is running it.
    if (holds_gil && interpreters_[thread.interpreter].is_collecting) {
        flags |= stream::kStackInGc;
    }
    write_stack(thread, assigned, flags, may_have_run, armed_ns_);
    if (is_line_missing) {
        thread.must_resend = true;  // also where it does not run again
        mark(thread);
    }
}

}  // namespace echion::agent
