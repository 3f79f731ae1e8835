#include "agent/stack_sampler.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/clock.h"

namespace echion::agent {
namespace {

using cpython::GilState;
using cpython::has;
using cpython::Offset;
using stream::Counter;

// Copies of one round: the stacks of a group of threads. What does not fit is fetched in pieces.
// Pages that are never touched cost nothing.
constexpr std::size_t kArenaBytes = std::size_t{sizeof(void*) == 8 ? 64 : 16} << 20;
// A stack with more frames takes longer to copy than the sampler may keep its CPU.
constexpr std::size_t kDeepFrames = 512;
// Frames of one round, before they are compared with the last ones.
constexpr std::size_t kMinRawFrames = std::size_t{1} << 16;
// Walks after which a page that was not needed any more is no longer fetched ahead.
constexpr std::uint32_t kPageAge = 32;
// When a chain that ends at a generator, or at another function than before, is what it seems: seen
// so often, after so much CPU time of the thread each time, or for so long.
constexpr std::uint32_t kTimesOfAGeneratorsRoot = 16;
constexpr std::uint32_t kTimesOfAnotherRoot = 2;
constexpr std::int64_t kPastAMomentNs = 2'000;
constexpr std::int64_t kLongMomentNs = 100'000'000;
// For a thread to get past the few instructions in which its chain of frames is not whole. Less,
// and the timer fires before the kernel has switched to it.
constexpr std::int64_t kPauseNs = 20'000;
// A tick of a stack so deep that it takes longer is rare enough.
constexpr std::int64_t kLongestRestNs = 10'000'000;

std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

}  // namespace

Status StackSampler::reserve() {
    auto batch = PageBatch::make(kArenaBytes);
    auto threads = ThreadTable::make(options_.max_frames);
    auto codes = CodeRegistry::make(view_);
    auto raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames + 2 * options_.max_frames);
    auto changed = FixedArray<TrackedThread*>::make(2 * cpython::kMaxThreadStates);
    auto selected = FixedArray<TrackedThread*>::make(2 * cpython::kMaxThreadStates);
    auto interpreters = FixedArray<Interpreter>::make(cpython::kMaxInterpreters);
    auto gils = FixedArray<Gil>::make(cpython::kMaxInterpreters);
    auto names = cpython::ThreadNames::make();
    auto snapshot_raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames);
    auto ran = FixedArray<TrackedThread*>::make(cpython::kMaxThreadStates);
    auto strangers = FixedArray<Stranger>::make(ECHION_MAX_THREADS);
    if (!names || !snapshot_raw || !ran || !strangers || !batch || !threads || !codes || !raw ||
        !changed || !selected || !interpreters || !gils) {
        return fail(ErrorKind::kNoSpace, "reserve memory for the sampler");
    }
    batch_ = std::move(*batch);
    threads_ = std::move(*threads);
    codes_ = std::move(*codes);
    raw_ = std::move(*raw);
    changed_ = std::move(*changed);
    selected_ = std::move(*selected);
    interpreters_ = std::move(*interpreters);
    gils_ = std::move(*gils);
    names_ = std::move(*names);
    snapshot_raw_ = std::move(*snapshot_raw);
    ran_ = std::move(*ran);
    strangers_ = std::move(*strangers);
    return {};
}

Status StackSampler::start(const cpython::RuntimeView& view, const SamplerOptions& options,
                           const GuestFacts& facts, stream::RingProducer& ring,
                           std::int64_t now_ns) {
    view_ = view;
    options_ = options;
    if (auto status = reserve(); !status) {
        return status;
    }
    // The probe has to be memory that is not copied directly: this object's own.
    if (auto status = reader_.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(&now_ns)));
        !status) {
        return status;
    }
    reader_.set_direct_range(view.runtime, facts.static_bytes_from(view.runtime));
    same_cpu_.open(facts.rseq_offset);
    can_follow_ = options_.follow && same_cpu_.has_cpu_numbers();
    native_id_offset_ = find_native_id_offset();
    if (const auto main = reader_.read_value<std::uintptr_t>(
            view_.runtime + at(view_.layout->runtime.main_thread))) {
        main_thread_id_ = *main;
    }
    if (options.state_fd >= 0) {
        // Without it the sampler does as well as it can by itself.
        (void)watch_.open(options.state_fd, options.snapshots_fd,
                          static_cast<std::uint32_t>(syscall(SYS_gettid)));
    }
    counts_from_birth_ = facts.is_launch;
    tick_interval_ns_ = static_cast<std::int64_t>(options.interval_ns);
    ring_ = &ring;
    encoder_.emplace(ring);
    now_ns_ = previous_ns_ = now_ns;
    encoder_->begin_start(static_cast<std::uint64_t>(now_ns), view_.version.major,
                          view_.version.minor, view_.version.micro);
    define_unknown_code();
    if (!encoder_->commit()) {
        return fail(ErrorKind::kNoSpace, "the ring has no room for the start of the stream");
    }
    return {};
}

void StackSampler::use_kernel_ticks(std::int64_t interval_ns) {
    has_kernel_ticks_ = true;
    tick_interval_ns_ = interval_ns;
}

void StackSampler::begin(std::int64_t at_ns) {
    at_ns = std::max(at_ns, previous_ns_);
    encoder_->begin_tick(static_cast<std::uint64_t>(at_ns - previous_ns_));
    previous_ns_ = at_ns;
}

void StackSampler::finish(std::int64_t began_ns) {
    has_ticked_ = true;
    commit();
    publish_counts();
    ring_->count(Counter::kTicks);
    ring_->count(Counter::kSamplerTickNs, static_cast<std::uint64_t>(monotonic_ns() - began_ns));
}

void StackSampler::tick(std::int64_t now_ns) {
    now_ns_ = now_ns;
    codes_.begin_tick(now_ns);
    if (has_kernel_ticks_ && options_.cpu_mode && watch_.is_open()) {
        tick_for_events(now_ns);
        return;
    }
    begin(now_ns);
    if (watch_.is_open()) {
        look_at_cpus();
        keep_snapshots();
    }
    refresh_interpreters(now_ns);
    for (std::uint32_t gil = 0; gil < gil_count_; ++gil) {
        sample_gil(gil, Marking::kByGil);
    }
    refresh_names();
    if (options_.cpu_mode) {
        write_all_cpu(is_stopping_);
    }
    ring_->count(Counter::kSamples, threads_.size());
    finish(now_ns);
}

void StackSampler::stop(std::int64_t now_ns) {
    is_stopping_ = true;
    tick(now_ns);
    if (options_.cpu_mode && watch_.is_open()) {
        begin(now_ns);
        write_all_cpu(true);
        finish(monotonic_ns());
    }
    same_cpu_.release();
}

bool StackSampler::read_gil(Address gil, GilState* out) {
    const auto state = cpython::read_gil(reader_, view_, gil);
    if (!state) {
        ++tally_.read_failures;
        return false;
    }
    *out = *state;
    return true;
}

void StackSampler::mark(TrackedThread& thread) {
    if (!thread.may_have_changed && changed_count_ < changed_.capacity()) {
        thread.may_have_changed = true;
        changed_[changed_count_++] = &thread;
    }
}

void StackSampler::mark_all(std::uint32_t gil_index) {
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (thread.in_use && !thread.has_left &&
            interpreters_[thread.interpreter].gil == gil_index) {
            mark(thread);
        }
    }
}

void StackSampler::mark_changed(std::uint32_t gil_index, const GilState& now) {
    Gil& gil = gils_[gil_index];
    const std::uintptr_t switches = now.switch_number - gil.sampled.switch_number;
    if (!gil.is_known || switches > 1) {
        mark_all(gil_index);
    } else {
        for (const Address holder : {now.last_holder, gil.sampled.last_holder}) {
            if (TrackedThread* thread = threads_.find(holder)) {
                mark(*thread);
            } else if (holder && (holder != gil.unknown_holder ||
                                  (now.locked > 0 && holder == now.last_holder))) {
                // A thread that began since the lists were walked, or one that has ended.
                gil.unknown_holder = holder;
                for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
                    interpreters_[i].list_changed |= interpreters_[i].gil == gil_index;
                }
            }
        }
    }
    // A thread that goes from one interpreter to another keeps the GIL without taking it anew
    // (PyThreadState_Swap): its other states change unnoticed.
    for (std::size_t i = 0; second_count_ > 0 && i < threads_.slots(); ++i) {
        if (TrackedThread& thread = threads_.slot(i);
            thread.in_use && thread.is_second && !thread.has_left &&
            interpreters_[thread.interpreter].gil == gil_index) {
            mark(thread);
        }
    }
    gil.sampled = now;
    gil.is_known = true;
}

std::span<TrackedThread*> StackSampler::select_changed(std::uint32_t gil_index) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < changed_count_; ++i) {
        TrackedThread* thread = changed_[i];
        if (!thread->in_use || !thread->may_have_changed || thread->has_left ||
            interpreters_[thread->interpreter].gil != gil_index) {
            continue;
        }
        if (thread->slot != TrackedThread::kNoSlot && !thread->has_run && !thread->must_resend) {
            thread->may_have_changed = false;  // it has not run: its stack is what it was
            continue;
        }
        selected_[count++] = thread;
    }
    return {selected_.data(), count};
}

void StackSampler::forget_processed() {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < changed_count_; ++i) {
        if (changed_[i]->in_use && changed_[i]->may_have_changed) {
            changed_[kept++] = changed_[i];
        }
    }
    changed_count_ = kept;
}

bool StackSampler::walk_changed_lists(std::uint32_t gil_index) {
    bool any = false;
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        if (interpreters_[i].gil == gil_index && interpreters_[i].list_changed) {
            walk_thread_list(i);
            any = true;
        }
    }
    return any;
}

void StackSampler::sample_gil(std::uint32_t gil_index, Marking marking) {
    walk_changed_lists(gil_index);
    // A round of reading can find that threads have come or gone; then there is another one.
    for (int round = 0; round < kAttempts; ++round) {
        if (marking == Marking::kMarkedOnly && changed_count_ == 0) {
            return;
        }
        GilState now;
        if (!read_gil(gils_[gil_index].address, &now)) {
            return;
        }
        if (marking == Marking::kByGil) {
            mark_changed(gil_index, now);
            if (walk_changed_lists(gil_index)) {
                continue;
            }
            use_snapshots();
        }
        std::span<TrackedThread*> changed = select_changed(gil_index);
        Address last_holder = now.last_holder;
        while (!changed.empty()) {
            std::size_t read = 0;
            for (int attempt = 0; attempt < kAttempts && read == 0; ++attempt) {
                // The shorter a round, the better its chance that the GIL stays where it is.
                const std::size_t size = std::min(changed.size(), kGroup >> (2 * attempt));
                read = read_group(gil_index, changed.first(size), &last_holder,
                                  attempt == kAttempts - 1);
                if (must_pause_) {
                    pause();
                }
            }
            changed = changed.subspan(std::max<std::size_t>(read, 1));
        }
        if (!walk_changed_lists(gil_index)) {
            break;
        }
    }
    forget_processed();
}

bool StackSampler::request(Round& round, std::uint32_t gil_index) {
    const cpython::Layout& layout = *view_.layout;
    const Gil& gil = gils_[gil_index];
    batch_.reset();
    // What is copied directly comes first, so that the rest goes into one system call.
    round.gil_before = batch_.add(gil.address, at(layout.gil.size));
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
            batch_.free_bytes() < kArenaBytes / 4 || batch_.free_requests() < 64) {
            break;
        }
        ++fits;
    }
    round.group = round.group.first(std::max<std::size_t>(fits, 1));
    round.holder_cpu = round.holder_state_after = round.holder_cframe_after = PageBatch::kNone;
    if (round.holder != nullptr) {
        if (can_follow_) {
            // Last but for the GIL: see SameCpu.
            round.holder_cpu = batch_.add(
                same_cpu_.cpu_number_address(round.holder->head.thread_id), sizeof(std::uint32_t));
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
    if (can_follow_) {
        std::uint32_t cpu = ~0U;
        const std::byte* copy = batch_.copy(round.holder_cpu);
        const Address cpu_number = same_cpu_.cpu_number_address(round.holder->head.thread_id);
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
    return frame == stack.head ? Verdict::kUnproved : Verdict::kRetry;
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
    const GilState before = cpython::parse_gil(*view_.layout, before_copy);
    GilState after = cpython::parse_gil(*view_.layout, after_copy);
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

    // What the walks read besides the round came after it: the evidence has to come after that.
    const bool was_cold = reader_.system_calls() != calls;
    Verdict holder_verdict = Verdict::kRetry;
    if (holder_stack != nullptr) {
        holder_verdict = prove_holder(round, *holder_stack, was_cold);
    }
    if (was_cold && !read_gil(gils_[gil_index].address, &after)) {
        return 0;
    }
    const bool gil_stayed =
        before.last_holder == after.last_holder && before.switch_number == after.switch_number;
    *last_holder = after.last_holder;

    for (std::size_t i = 0; i < walked; ++i) {
        TrackedThread& thread = *round.group[i];
        if (!stacks[i].is_readable) {
            thread.may_have_changed = false;  // gone, most likely: the walk of its list will tell
            continue;
        }
        Verdict verdict = gil_stayed ? Verdict::kProved : Verdict::kRetry;
        if (&thread == round.holder) {
            verdict = holder_verdict;
        } else if (thread.state == before.last_holder) {
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
            if (assigned.has_read_code && verdict == Verdict::kProved &&
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
    }
    return walked;
}

bool StackSampler::still_stands(Round& round, std::uint32_t gil_index, const GilState& before,
                                const TrackedThread& thread, const WalkedStack& stack) {
    if (&thread == round.holder) {
        return prove_holder(round, stack, true) != Verdict::kRetry;
    }
    GilState now;
    return read_gil(gils_[gil_index].address, &now) && now.last_holder == before.last_holder &&
           now.switch_number == before.switch_number;
}

bool StackSampler::is_between_frames(TrackedThread& thread, const WalkedStack& stack,
                                     bool holds_gil, bool* can_pass) {
    const cpython::Walk& walk = stack.walk;
    const bool is_whole = walk.count > 0 && !walk.truncated && !walk.broken;
    const Address root = is_whole ? raw_[stack.first + walk.count - 1].code : Address();
    const bool has_new_root =
        has(view_.layout->frame.owner) && thread.root && is_whole && root != thread.root;
    // Who does not hold the GIL waits in C code, with its frames in order.
    if (!holds_gil || !is_whole || !(walk.ends_at_generator || has_new_root)) {
        thread.times_between = 0;
        return false;
    }
    const std::int64_t cpu_ns = read_thread_cpu_ns(thread);
    if (thread.times_between == 0 || root != thread.between_root) {
        thread.times_between = 0;
        thread.between_root = root;
        thread.between_since_ns = now_ns_;
    }
    // Since it was last seen there it has not run: others have its CPU, and waiting does not help.
    *can_pass = thread.times_between == 0 || cpu_ns != thread.last_between_cpu_ns;
    thread.last_between_cpu_ns = cpu_ns;
    if (thread.times_between == 0 || cpu_ns - thread.between_cpu_ns > kPastAMomentNs) {
        thread.between_cpu_ns = cpu_ns;
        ++thread.times_between;
    }
    const std::uint32_t enough =
        walk.ends_at_generator ? kTimesOfAGeneratorsRoot : kTimesOfAnotherRoot;
    return thread.times_between < enough && now_ns_ - thread.between_since_ns < kLongMomentNs;
}

void StackSampler::pause() {
    // Where the sampler holds its CPU, the thread that it reads stands still: let it go on a
    // little.
    must_pause_ = false;
    const timespec moment = make_timespec(kPauseNs);
    ++clock_reads_;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
}

void StackSampler::rest(std::int64_t took_ns) {
    if (can_follow_) {
        const timespec as_long = make_timespec(std::min(took_ns, kLongestRestNs));
        ++clock_reads_;
        clock_nanosleep(CLOCK_MONOTONIC, 0, &as_long, nullptr);
    }
}

void StackSampler::accept(TrackedThread& thread, const WalkedStack& stack,
                          const AssignedStack& assigned, Verdict verdict, bool holds_gil) {
    thread.may_have_changed = false;
    thread.has_run = false;
    thread.was_read_ns = now_ns_;
    if (verdict == Verdict::kRetry) {
        ++tally_.torn_marked;
        // No stack rather than a wrong one.
        write_stack(thread, assign_stack(thread, {}), stream::kStackInvalid);
        return;
    }
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
    if (!stack.walk.broken && !stack.walk.truncated && assigned.frame_count > 0) {
        thread.root = thread.codes[0];
    }
    write_stack(thread, assigned, flags);
}

}  // namespace echion::agent
