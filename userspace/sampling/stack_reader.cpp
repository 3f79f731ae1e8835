#include "sampling/stack_reader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/clock.h"

namespace echion::sampling {
namespace {

using cpython::at;
using cpython::GilState;
using cpython::has;

// Frames of one round, before they are compared with the last ones.
constexpr std::size_t kMinRawFrames = std::size_t{1} << 16;
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

// After a CPU that it may not go to: one that has just gone offline, or that it is kept from.
constexpr std::int64_t kFollowAgainNs = 100'000'000;
// For how long a clock that stands still is taken for rest. The kernel takes what a hypervisor has
// stolen off the clocks of threads that run next (kernel/sched/core.c, update_rq_clock_task()): a
// short run may add nothing to one.
constexpr std::int64_t kLongestRestNs = 100'000'000;

}  // namespace

Status StackReader::reserve() {
    auto raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames + 2 * options_.max_frames);
    auto places = FixedArray<Address>::make(options_.max_frames);
    if (!raw || !places) {
        return fail(ErrorKind::kNoSpace, "reserve memory for stacks");
    }
    raw_ = std::move(*raw);
    places_ = std::move(*places);
    return {};
}

void StackReader::start(const ProcessFacts& facts) {
    same_cpu_.open(facts.thread_area_offset);
    can_follow_ = options_.follow && same_cpu_.has_cpu_numbers();
}

void StackReader::begin_tick(std::int64_t now_ns) {
    now_ns_ = now_ns;
    codes_.begin_tick();
    if (refused_ns_ && now_ns - *refused_ns_ >= kFollowAgainNs) {
        can_follow_ = true;
        refused_ns_.reset();
    }
}

void StackReader::let_pass() {
    // Where the sampler holds its CPU, the thread that it reads stands still.
    if (std::exchange(must_pause_, false)) {
        memory_.sleep(kPauseNs);
    }
}

/// What is copied besides the GIL: whether lists have changed, and whether the collector runs.
void StackReader::request_interpreters(std::uint32_t gil_index) {
    const cpython::Layout& layout = memory_.layout();
    PageBatch& batch = memory_.batch;
    PageBatch::Handle runtime_collecting = PageBatch::kNone;
    if (has(layout.runtime.gc_collecting)) {
        runtime_collecting = batch.add(memory_.view.runtime + at(layout.runtime.gc_collecting),
                                       sizeof(std::int32_t));
    }
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        Interpreter& interpreter = interpreters_[i];
        interpreter.threads_head_copy = PageBatch::kNone;
        interpreter.collecting_copy = runtime_collecting;
        interpreter.requester_copy = PageBatch::kNone;
        if (interpreter.gil != gil_index) {
            continue;
        }
        const Address base = interpreter.head.interpreter;
        interpreter.threads_head_copy =
            batch.add(base + at(layout.interpreter.threads_head), sizeof(void*));
        if (has(layout.interpreter.gc_collecting)) {
            interpreter.collecting_copy =
                batch.add(base + at(layout.interpreter.gc_collecting), sizeof(std::int32_t));
        }
        if (has(layout.interpreter.stop_requester)) {
            interpreter.requester_copy =
                batch.add(base + at(layout.interpreter.stop_requester), sizeof(void*));
        }
    }
}

void StackReader::request_codes(std::span<TrackedThread*> group) {
    codes_.begin_look(memory_.reader);
    memory_.batch.begin_unsearched();
    for (TrackedThread* thread : group) {
        const std::size_t count =
            std::min<std::size_t>(thread->stack.frame_count + kRecentCodes, options_.max_frames);
        const std::size_t held =
            codes_.holds_since(thread->stack.refs_look) ? thread->stack.refs_count : 0;
        codes_.request(memory_.batch,
                       std::span(thread->stack.codes, count).subspan(std::min(held, count)));
    }
    codes_.add_requested(memory_.batch);
    memory_.batch.end_unsearched();
}

bool StackReader::may_run(const Round& round, const TrackedThread& thread) const {
    return interpreters_.are_free_threaded() || &thread == round.holder;
}

/// Whether the thread has not run since before its last copy, which was proved. Its clock costs
/// less than a copy does, and far less than going to its CPU.
bool StackReader::has_rested(TrackedThread& thread) {
    thread.asked_cpu_ns = 0;
    const bool is_told_otherwise = thread.slot != TrackedThread::kNoSlot;
    if (is_told_otherwise || thread.stack.must_resend || thread.must_read_on ||
        !can_follow(thread)) {
        return false;
    }
    thread.asked_cpu_ns = memory_.read_cpu_ns(thread);
    return thread.asked_cpu_ns != 0 && thread.asked_cpu_ns == thread.proved_cpu_ns &&
           now_ns_ - thread.was_read_ns < kLongestRestNs;
}

std::span<TrackedThread*> StackReader::order(std::span<TrackedThread*> threads) {
    if (!interpreters_.are_free_threaded() || !can_follow_) {
        return threads;
    }
    const std::uint32_t own = same_cpu_.own_cpu() + 1;
    std::size_t count = 0;
    for (TrackedThread* thread : threads) {
        if (thread->cpu_and_one == 0) {
            thread->cpu_and_one = own;  // as good as any, and one that may be moved to
        }
        if (has_rested(*thread)) {
            thread->may_have_changed = false;
            thread->seen_ns = monotonic_ns();
            continue;
        }
        thread->proved_cpu_ns = 0;
        threads[count++] = thread;
    }
    threads = threads.first(count);
    // By the difference: this CPU's come first, and the rest in one turn.
    std::sort(threads.begin(), threads.end(), [&](const auto* a, const auto* b) {
        const std::uint32_t from_own = a->cpu_and_one - own;
        return from_own != b->cpu_and_one - own ? from_own < b->cpu_and_one - own : a->id < b->id;
    });
    return threads;
}

bool StackReader::can_follow(const TrackedThread& thread) const {
    return can_follow_ && (thread.refused_ns == 0 || now_ns_ - thread.refused_ns >= kFollowAgainNs);
}

/// Of an ordered group those that can be proved together; the sampler goes to where they are. Where
/// it cannot go, they are read by themselves, and the others are proved as before.
std::span<TrackedThread*> StackReader::select_cpu(std::span<TrackedThread*> group) {
    if (!interpreters_.are_free_threaded() || !can_follow_) {
        return group;
    }
    const std::uint32_t cpu_and_one = group[0]->cpu_and_one;
    const auto end = std::find_if(group.begin(), group.end(), [&](const auto* thread) {
        return thread->cpu_and_one != cpu_and_one;
    });
    group = group.first(static_cast<std::size_t>(end - group.begin()));
    if (cpu_and_one != 0 && cpu_and_one - 1 != same_cpu_.own_cpu() && !follow(cpu_and_one - 1)) {
        for (TrackedThread* thread : group) {
            thread->refused_ns = now_ns_;
            thread->cpu_and_one = 0;
        }
    }
    return group;
}

/// What proves the stacks of threads that may run. Last but for the GIL, after all that is copied
/// of any of them: see SameCpu.
void StackReader::request_evidence(Round& round) {
    for (std::size_t i = 0; i < round.group.size(); ++i) {
        const TrackedThread& thread = *round.group[i];
        Evidence& evidence = round.evidence[i];
        if (!may_run(round, thread)) {
            continue;
        }
        evidence = {};
        evidence.runs_on = thread.runs_on;
        // Where it is not known which thread runs with this state, no CPU proves anything.
        evidence.is_followed = can_follow(thread) && !thread.is_apart && thread.runs_on != 0 &&
                               (thread.is_placed || !interpreters_.can_change_threads(thread));
        if (evidence.is_followed) {
            evidence.cpu = memory_.batch.add(same_cpu_.cpu_number_address(thread.runs_on),
                                             sizeof(std::uint32_t));
        } else {
            round.stacks.add_again(thread.state, thread.head.cframe, &evidence.after);
        }
    }
}

bool StackReader::request(Round& round, std::uint32_t gil_index) {
    memory_.batch.reset();
    // What is copied directly comes first, so that the rest goes into one system call.
    round.stacks.begin(interpreters_.gil(gil_index).address);
    request_interpreters(gil_index);
    std::size_t fits = 0;
    for (TrackedThread* thread : round.group) {
        if (!round.stacks.add(thread->state, thread->head.cframe, thread->stack.pages,
                              &thread->copies)) {
            break;
        }
        ++fits;
    }
    round.group = round.group.first(std::max<std::size_t>(fits, 1));
    request_codes(round.group);
    request_evidence(round);
    return round.stacks.end();
}

bool StackReader::walk_one(const Round& round, TrackedThread& thread, cpython::StackHead head,
                           WalkedStack& out, std::size_t* raw_used) {
    out = {};
    out.first = *raw_used;
    // A thread state that has been freed, and perhaps taken by another thread since, shows here.
    if (!head.is_read || head.thread.interpreter != thread.head.interpreter ||
        head.thread.id != thread.head.id) {
        return false;
    }
    if (head.thread.next != thread.head.next || head.thread.prev != thread.head.prev) {
        interpreters_.of(thread).list_changed = true;
    }
    if (!round.stacks.complete(memory_.reader, &head)) {
        return false;
    }
    const std::uintptr_t thread_id = thread.head.thread_id;
    thread.head = head.thread;
    if (head.thread.thread_id != thread_id || !thread.has_begun) {
        owners_.describe(thread);  // a thread that had not begun when it was first seen
    }
    out.is_placed = interpreters_.count() <= 1 || owners_.place_by_stack(thread);
    out.is_readable = true;
    out.head = head.frame;
    cpython::FrameWalker walker(memory_.layout(), memory_.reader, memory_.batch);
    walker.skip_code(codes_.trampoline());
    const std::size_t room = std::min(options_.max_frames, raw_.capacity() - out.first);
    ++thread.stack.walk;
    out.walk = walker.walk(head.frame, thread.stack.pages, thread.stack.walk,
                           {raw_.data() + out.first, room}, {places_.data(), room});
    const std::span<const Address> places(places_.data(), out.walk.count);
    const RunningTasks::Inserted inserted =
        tasks_.insert(thread, {raw_.data() + out.first, room}, places);
    if (round.reads_tasks) {
        suspended_.read(thread, places, !may_run_python(round, thread));
    } else {
        suspended_.drop(thread);
    }
    out.runs_task = inserted.has_task;
    out.walk.count = inserted.count;
    out.walk.truncated = out.walk.truncated || inserted.is_cut;
    if (thread.stack.walk % kPageAge == 0) {
        thread.stack.pages.expire(thread.stack.walk, kPageAge);
    }
    *raw_used += out.walk.count;
    return true;
}

Verdict StackReader::prove_running(const Round& round, std::size_t at, const WalkedStack& stack,
                                   bool was_cold) {
    TrackedThread& thread = *round.group[at];
    const Evidence& evidence = round.evidence[at];
    if (thread.runs_on != evidence.runs_on) {
        return Verdict::kTorn;  // it is another thread than was thought
    }
    if (evidence.is_followed && can_follow_) {
        std::uint32_t cpu = ~0U;
        const std::byte* copy = memory_.batch.copy(evidence.cpu);
        const Address cpu_number = same_cpu_.cpu_number_address(thread.runs_on);
        if (!was_cold && copy != nullptr) {
            cpu = load<std::uint32_t>(copy, 0);
        } else if (const auto value = memory_.reader.read_value<std::uint32_t>(cpu_number)) {
            cpu = *value;
        } else {
            return Verdict::kTorn;
        }
        thread.cpu_and_one = cpu + 1;
        if (cpu == same_cpu_.own_cpu() && same_cpu_.undisturbed()) {
            return Verdict::kProved;
        }
        // Others of the group may be where this one is no more: see select_cpu().
        if (cpu != same_cpu_.own_cpu() && !interpreters_.are_free_threaded() && !follow(cpu)) {
            can_follow_ = false;
            refused_ns_ = now_ns_;
        }
        // A thread that waits for its CPU for so long is given another one.
        return stack.walk.count > kDeepFrames ? compare_heads(round, at, stack, true)
                                              : Verdict::kTorn;
    }
    return compare_heads(round, at, stack, was_cold);
}

bool StackReader::follow(std::uint32_t cpu) {
    ++counts_.follow_moves;
    return static_cast<bool>(same_cpu_.move_to(cpu));
}

Verdict StackReader::compare_heads(const Round& round, std::size_t at, const WalkedStack& stack,
                                   bool was_cold) {
    // Not a proof, but what there is without one: the newest frame, read before and after.
    cpython::StackHead after;
    if (!was_cold) {
        after = round.stacks.take(round.evidence[at].after);
    }
    if (!after.is_read) {
        after = round.stacks.read(memory_.reader, round.group[at]->state);
    }
    if (!after.is_read || !round.stacks.complete(memory_.reader, &after) ||
        after.frame != stack.head) {
        return Verdict::kTorn;
    }
    return stack.walk.count == 0 ? Verdict::kProved : Verdict::kUnproved;
}

void StackReader::read_interpreter_copies() {
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        Interpreter& interpreter = interpreters_[i];
        if (const std::byte* copy = memory_.batch.copy(interpreter.threads_head_copy)) {
            interpreter.list_changed |= load_address(copy, 0) != interpreter.threads_head;
        }
        const std::byte* requester = memory_.batch.copy(interpreter.requester_copy);
        interpreter.stop_requester = requester != nullptr ? load_address(requester, 0) : Address();
        const std::byte* copy = memory_.batch.copy(interpreter.collecting_copy);
        interpreter.is_collecting = copy != nullptr && load<std::int32_t>(copy, 0) != 0;
    }
}

/// Takes the stacks out of a round's copies. Returns how many threads of the group were looked at.
std::size_t StackReader::walk_all(Round& round, bool is_incomplete, std::span<WalkedStack> stacks) {
    std::array<cpython::StackHead, kGroup> heads;
    for (std::size_t i = 0; i < round.group.size(); ++i) {
        TrackedThread& thread = *round.group[i];
        heads[i] = round.stacks.take(thread.copies);
        if (is_incomplete) {
            memory_.batch.erase_unread(thread.stack.pages);
        }
    }
    std::size_t raw_used = 0;
    std::size_t walked = 0;
    for (TrackedThread* thread : round.group) {
        if (walked > 0 && raw_.capacity() - raw_used < options_.max_frames) {
            break;
        }
        if (!walk_one(round, *thread, heads[walked], stacks[walked], &raw_used)) {
            interpreters_.of(*thread).list_changed = true;
        }
        ++walked;
    }
    for (std::size_t i = 0; i < walked; ++i) {
        if (stacks[i].is_readable) {
            check_codes(round, *round.group[i], stacks[i]);
        }
    }
    return walked;
}

void StackReader::check_codes(const Round& round, TrackedThread& thread, const WalkedStack& stack) {
    codes_.check(memory_.reader, memory_.batch, frames_of(stack),
                 {thread.stack.codes, thread.stack.refs_count}, thread.stack.refs_look);
    if (round.reads_tasks) {
        codes_.check(memory_.reader, memory_.batch, suspended_.frames_read(thread), {}, 0);
    }
}

bool StackReader::may_run_python(const Round& round, const TrackedThread& thread) const {
    return interpreters_.are_free_threaded() ? thread.head.is_attached
                                             : &thread == round.holder && round.is_gil_held;
}

std::size_t StackReader::read(std::uint32_t gil_index, std::span<TrackedThread*> group,
                              Address* last_holder, int attempt,
                              FunctionRef<void(const ReadStack&)> accept) {
    Gil& gil = interpreters_.gil(gil_index);
    group = select_cpu(group);
    const bool is_free_threaded = interpreters_.are_free_threaded();
    Round round(memory_.view, memory_.batch, group);
    for (TrackedThread* thread : group) {
        if (thread->state == *last_holder) {
            round.holder = thread;
        }
    }
    same_cpu_.arm();
    if (!request(round, gil_index)) {
        ++counts_.table_full;
        group[0]->may_have_changed = false;
        return 1;
    }
    const std::int64_t read_from_ns = monotonic_ns();
    const std::size_t left_out = memory_.batch.run(memory_.reader);
    memory_.read_failures += left_out;
    counts_.read_ns += monotonic_ns() - read_from_ns;
    const std::uint64_t calls = memory_.reader.system_calls();

    GilState before;
    GilState after;
    if (!round.stacks.take_gil(&before, &after)) {
        return 0;
    }
    read_interpreter_copies();
    round.is_gil_held = before.locked > 0;
    round.reads_tasks = attempt == 0;

    std::array<WalkedStack, kGroup> stacks;
    const std::uint64_t code_reads = codes_.reads();
    const std::size_t walked = walk_all(round, left_out > 0, stacks);

    // What was read besides the round came after it: the evidence has to come after that.
    const bool was_cold = memory_.reader.system_calls() != calls;
    std::array<Verdict, kGroup> running;  // of those that may run
    for (std::size_t i = 0; i < walked; ++i) {
        if (may_run(round, *round.group[i])) {
            running[i] = stacks[i].is_readable ? prove_running(round, i, stacks[i], was_cold)
                                               : Verdict::kTorn;
        }
    }
    if (was_cold && !memory_.read_gil(gil.address, &after)) {
        return 0;
    }
    const bool gil_stayed =
        before.holder() == after.holder() && before.switch_number == after.switch_number;
    *last_holder = after.holder();
    const std::int64_t proved_ns = monotonic_ns();
    if (gil_stayed && !is_free_threaded && before.switch_number == gil.sampled.switch_number) {
        gil.held_ns = proved_ns;
    }

    for (std::size_t i = 0; i < walked; ++i) {
        TrackedThread& thread = *round.group[i];
        if (!stacks[i].is_readable) {
            thread.may_have_changed = false;  // gone, most likely: the walk of its list will tell
            continue;
        }
        if (!stacks[i].is_placed && interpreters_.has_changed_lists()) {
            continue;
        }
        Verdict verdict = gil_stayed && stacks[i].is_placed ? Verdict::kProved : Verdict::kTorn;
        if (may_run(round, thread) && stacks[i].is_placed) {
            verdict = running[i];
        } else if (thread.state == before.holder()) {
            verdict = Verdict::kTorn;
        }
        const bool may_run_now = is_free_threaded ? thread.head.is_attached
                                                  : &thread == round.holder && after.locked > 0;
        bool can_pass = true;
        if (verdict != Verdict::kTorn &&
            is_between_frames(thread, stacks[i], may_run_now, &can_pass)) {
            verdict = Verdict::kTorn;
            must_pause_ = can_pass;
        }
        AssignedStack assigned;
        if (verdict != Verdict::kTorn) {
            suspended_.assign(thread);
            assigned = stack_codes_.assign(thread.stack, frames_of(stacks[i]));
            // Code objects that were read to define them were read later than the stack.
            if (codes_.reads() != code_reads && verdict == Verdict::kProved &&
                !still_stands(round, gil_index, before, i, stacks[i])) {
                verdict = Verdict::kTorn;
            }
        }
        if (verdict == Verdict::kTorn && attempt != kLastAttempt && can_pass) {
            ++counts_.torn_retried;
            return i;  // from this one on again, in a new round
        }
        if (verdict == Verdict::kTorn) {
            assigned = {};
            suspended_.drop(thread);
        }
        thread.proved_cpu_ns = verdict == Verdict::kProved ? thread.asked_cpu_ns : 0;
        accept({thread, stacks[i].walk, assigned, verdict, may_run_now, stacks[i].runs_task});
        thread.seen_ns = proved_ns;
    }
    return walked;
}

bool StackReader::still_stands(const Round& round, std::uint32_t gil_index, const GilState& before,
                               std::size_t at, const WalkedStack& stack) {
    if (may_run(round, *round.group[at])) {
        return prove_running(round, at, stack, true) != Verdict::kTorn;
    }
    GilState now;
    return memory_.read_gil(interpreters_.gil(gil_index).address, &now) &&
           now.holder() == before.holder() && now.switch_number == before.switch_number;
}

bool StackReader::is_between_frames(TrackedThread& thread, const WalkedStack& stack,
                                    bool may_run_python, bool* can_pass) {
    const cpython::Walk& walk = stack.walk;
    const bool comes_to_end = walk.count > 0 && !walk.truncated && !walk.broken;
    const bool ends_at_generator = comes_to_end && walk.ends_at_generator;
    const bool ends_midway = comes_to_end && walk.ends_midway;
    // Without a GIL: also between two copies of the bytecode.
    const bool leads_nowhere =
        ((walk.count == 0 || walk.broken) && thread.head.has_cframe_on_stack(thread.state)) ||
        (walk.broken && interpreters_.are_free_threaded());
    if (!(leads_nowhere || ends_at_generator || ends_midway)) {
        thread.times_between = 0;
        return false;
    }
    // Any other thread is in C code, with its frames in order.
    if (!may_run_python) {
        return false;
    }
    if (thread.between_root != walk.root) {
        thread.between_root = walk.root;
        thread.times_between = 0;
    }
    const std::int64_t cpu_ns = memory_.read_cpu_ns(thread);
    // Since it was last seen there it has not run: others have its CPU, and waiting does not help.
    *can_pass = thread.times_between == 0 || cpu_ns != thread.last_between_cpu_ns;
    thread.last_between_cpu_ns = cpu_ns;
    if (thread.times_between == 0 || cpu_ns - thread.between_cpu_ns > kPastAMomentNs) {
        thread.between_cpu_ns = cpu_ns;
        ++thread.times_between;
    }
    return thread.times_between < (ends_midway ? kTimesMidway : kTimesBetweenFrames);
}

}  // namespace echion::sampling
