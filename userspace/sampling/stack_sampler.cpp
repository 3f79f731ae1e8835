#include "sampling/stack_sampler.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"

namespace echion::sampling {
namespace {

using cpython::GilState;
using stream::Counter;

// Where the address space is limited: one part in so many of it, but one deep stack.
constexpr std::size_t kArenaShareOfLimit = 32;
constexpr std::size_t kLeastArenaBytes = std::size_t{1} << 20;
// Copies of one round: the stacks of a group of threads. What does not fit is fetched in pieces.
// Pages that are never touched cost nothing.
constexpr std::size_t kArenaBytes = std::size_t{sizeof(void*) == 8 ? 64 : 16} << 20;
constexpr int kAttempts = StackReader::kLastAttempt + 1;

}  // namespace

Status StackSampler::reserve() {
    auto batch = PageBatch::make(
        std::max(fit_address_space(kArenaBytes, kArenaShareOfLimit), kLeastArenaBytes));
    auto threads = ThreadTable::make(options_.max_frames);
    auto interpreters = Interpreters::make(memory_.layout());
    auto codes = code::CodeRegistry::make(memory_.view);
    auto ran = FixedArray<TrackedThread*>::make(cpython::kMaxThreadStates);
    if (!batch || !threads || !interpreters || !codes || !ran || !changed_.reserve() ||
        !naming_.reserve() || !accounts_.reserve() || !roster_.reserve() ||
        !stack_codes_.reserve(options_.max_frames) || !stack_reader_.reserve() ||
        !snapshots_.reserve() ||
        !tasks_.reserve(options_.max_frames, options_.tasks != TaskMode::kNone)) {
        return fail(ErrorKind::kNoSpace, "reserve memory for the sampler");
    }
    memory_.batch = std::move(*batch);
    threads_ = std::move(*threads);
    interpreters_ = std::move(*interpreters);
    codes_ = std::move(*codes);
    ran_ = std::move(*ran);
    return {};
}

Status StackSampler::start(const cpython::RuntimeView& view, const SamplerOptions& options,
                           CpuWatch watch, const ProcessFacts& facts, stream::RingProducer& ring,
                           const PythonStart& python_start) {
    memory_.view = view;
    options_ = options;
    watch_ = std::move(watch);
    if (auto status = reserve(); !status) {
        return status;
    }
    // The probe has to be memory that is not copied directly: this object's own.
    if (auto status =
            memory_.reader.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(this)));
        !status) {
        return status;
    }
    memory_.reader.set_direct_range(view.runtime, facts.static_bytes);
    codes_.set_static_range(view.runtime, facts.static_bytes);
    stack_reader_.start(facts);
    owners_.open(facts);
    roster_.start(facts);
    accounts_.start(facts, facts.is_launch && options.cpu_mode ? python_start.main_cpu_ns : 0);
    ring_ = &ring;
    ticks_.start(ring, python_start.after_ns, static_cast<std::int64_t>(options.interval_ns),
                 options.cpu_mode, view.version);
    ticks_.encoder().label(code::CodeRegistry::kUnknownCode, "<unknown>");
    if (!ticks_.encoder().commit()) {
        return fail(ErrorKind::kNoSpace, "the ring has no room for the start of the stream");
    }
    return {};
}

Status StackSampler::check_access() const {
    if (memory_.reader.is_refused()) {
        return fail(ErrorKind::kRefused, ProcessReader::kRefused, EPERM);
    }
    if (options_.cpu_mode && !watch_.is_open() && read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) == 0) {
        return fail(ErrorKind::kRefused, "read CPU time: clock_gettime is refused", EPERM);
    }
    return {};
}

void StackSampler::use_kernel_ticks(std::int64_t interval_ns) {
    has_kernel_ticks_ = true;
    ticks_.set_interval(interval_ns);
}

/// Everything in the batch is void: it is said again, in the next one that has room.
void StackSampler::on_void_batch() {
    codes_.forget_tick();
    labels_.forget_tick();
    for (TrackedThread& thread : threads_.all()) {
        thread.is_announced = false;
        thread.stack.must_resend = true;
        thread.share = TrackedThread::Share::kUnknown;
        changed_.mark(thread);
    }
    suspended_.forget_announcements();
    accounts_.forget_announcements();
}

void StackSampler::finish_tick() {
    suspended_.end_orphans();
    ticks_.finish();
    publish_counts();
    ring_->count(Counter::kTicks);
    ring_->count(Counter::kSamplerTickNs,
                 static_cast<std::uint64_t>(monotonic_ns() - ticks_.now_ns()));
}

/// The first stacks are given an interval, as all others, of a start that was not long.
void StackSampler::write_first_interval() {
    const std::int64_t since_start_ns = ticks_.now_ns() - ticks_.tick_ns();
    if (!ticks_.has_looked() && !options_.cpu_mode && since_start_ns > ticks_.interval_ns() &&
        since_start_ns <= ticks_.longest_gap_ns()) {
        ticks_.begin(ticks_.now_ns() - ticks_.interval_ns());
        ticks_.commit();
    }
}

void StackSampler::tick(std::int64_t now_ns) {
    ticks_.begin_look(now_ns);
    labels_.begin_tick();
    stack_reader_.begin_tick(now_ns);
    watch_.want_snapshots(interpreters_.count() <= 1 && !tasks_.may_run_tasks());
    if (has_kernel_ticks_ && options_.cpu_mode && watch_.is_open() && is_alone()) {
        tick_for_events();
        return;
    }
    write_first_interval();
    ticks_.begin(now_ns);
    if (watch_.is_open()) {
        look_at_cpus();
        snapshots_.begin_tick();
        watch_.drain([&](TrackedThread& thread, const engine::SnapshotView& snapshot) {
            snapshots_.keep(thread, snapshot, now_ns);
        });
    }
    roster_.refresh();
    if (tasks_.look(now_ns)) {
        for (TrackedThread& thread : threads_.with_state()) {
            suspended_.look_for_loop(thread);
        }
    }
    for (std::uint32_t gil = 0; gil < interpreters_.gil_count(); ++gil) {
        sample_gil(gil, Marking::kByGil);
    }
    naming_.refresh();
    if (options_.cpu_mode) {
        accounts_.write_all(is_stopping_);
    }
    ring_->count(Counter::kSamples, threads_.size());
    finish_tick();
}

void StackSampler::stop(std::int64_t now_ns) {
    is_stopping_ = true;
    tick(now_ns);
    if (options_.cpu_mode && watch_.is_open()) {
        ticks_.begin(now_ns);
        accounts_.write_all(true);
        finish_tick();
    }
    stack_reader_.stop();
}

void StackSampler::look_at_cpus() {
    ran_count_ = 0;
    watch_.look(
        [&](std::uint32_t slot) {
            if (accounts_.note_unlisted(slot)) {
                interpreters_.mark_lists();
            }
        },
        [&](TrackedThread& thread) {
            if (ran_count_ < ran_.capacity()) {
                ran_[ran_count_++] = &thread;
            }
        },
        [&](TrackedThread& thread, const engine::CpuState& state) { end_slot(thread, state); });
}

void StackSampler::end_slot(TrackedThread& thread, const engine::CpuState& state) {
    if (options_.cpu_mode && state.generation == thread.slot_generation) {
        accounts_.write_up_to(thread, static_cast<std::int64_t>(state.on_cpu_ns));
    }
    if (thread.has_left) {
        writer_.forget(thread);
        return;
    }
    accounts_.detach(thread);
    interpreters_.of(thread).list_changed = true;
}

/// Marks whose stack can have changed, by what the GIL says. False if lists had to be walked: then
/// the GIL is to be read again.
bool StackSampler::mark_by_gil(std::uint32_t gil_index, const GilState& now) {
    Gil& gil = interpreters_.gil(gil_index);
    // Who held the GIL and gave it away before it was read has run before it is judged whether it
    // has: the GIL will not tell of it again.
    if (watch_.is_open() && now.switch_number != gil.sampled.switch_number) {
        watch_.look_again();
    }
    changed_.mark_holders(gil_index, now);
    owners_.note_holder(gil, now);
    gil.sampled = now;
    gil.is_known = true;
    if (!interpreters_.are_free_threaded()) {
        gil.held_ns = std::max(gil.held_ns, ticks_.now_ns());
    }
    if (roster_.walk_changed_lists(gil_index)) {
        return false;
    }
    owners_.note_running(now);
    (void)owners_.take_switched();  // what is marked now is read below
    use_snapshots();
    return true;
}

void StackSampler::sample_gil(std::uint32_t gil_index, Marking marking) {
    roster_.walk_changed_lists(gil_index);
    Gil& gil = interpreters_.gil(gil_index);
    gil.held_before_ns = gil.held_ns;
    // A round of reading can find that threads have come or gone; then there is another one.
    for (int round = 0; round < kAttempts; ++round) {
        if (marking == Marking::kMarkedOnly && changed_.is_empty()) {
            return;
        }
        GilState now;
        if (!memory_.read_gil(gil.address, &now)) {
            return;
        }
        if (marking == Marking::kByGil && !mark_by_gil(gil_index, now)) {
            continue;
        }
        read_stacks(gil_index, now.holder());
        if (!roster_.walk_changed_lists() && !owners_.take_switched()) {
            break;
        }
    }
    changed_.forget_read();
}

void StackSampler::read_stacks(std::uint32_t gil_index, Address last_holder) {
    std::span<TrackedThread*> changed = stack_reader_.order(changed_.select(gil_index));
    while (!changed.empty()) {
        std::size_t read = 0;
        for (int attempt = 0; attempt < kAttempts && read == 0; ++attempt) {
            const std::size_t size = std::min(changed.size(), StackReader::kGroup >> (2 * attempt));
            const std::int64_t at_ns = monotonic_ns();
            ticks_.continue_at(at_ns);
            read = stack_reader_.read(gil_index, changed.first(size), &last_holder, attempt,
                                      [&](const ReadStack& stack) { accept(stack, at_ns); });
            stack_reader_.let_pass();
        }
        changed = changed.subspan(std::max<std::size_t>(read, 1));
    }
}

/// `at_ns`: when the round began in which the stack was copied.
void StackSampler::accept(const ReadStack& stack, std::int64_t at_ns) {
    TrackedThread& thread = stack.thread;
    const AssignedStack& assigned = stack.assigned;
    const bool is_torn = stack.verdict == Verdict::kTorn;
    if ((is_torn || assigned.frame_count > 0) && owners_.is_of_former(thread)) {
        return;  // stays marked: the lists are walked, and then it is read again
    }
    if (!is_torn) {
        owners_.note_frames(thread, assigned.frame_count);
    }
    const auto is_by_another = [&] {
        return thread.slot != TrackedThread::kNoSlot && !thread.has_run &&
               !thread.stack.must_resend && interpreters_.can_change_threads(thread) &&
               (assigned.kept != assigned.frame_count || assigned.kept != thread.stack.frame_count);
    };
    if (!is_torn && is_by_another()) {
        // Its thread may have come back since the tick's look, before the copy.
        watch_.look_again();
    }
    // Without BPF a thread that waits where it did is taken to have waited there all the time.
    const bool may_have_run =
        thread.slot != TrackedThread::kNoSlot ? thread.has_run : stack.may_run_python;
    thread.was_read_ns = ticks_.now_ns();
    if (is_torn) {
        ++tally_.torn_marked;
        // No stack rather than a wrong one; and not for longer than to the next tick, whether the
        // thread runs until then or not.
        thread.has_run = true;
        write_stack(thread, {}, stream::kStackInvalid, may_have_run, at_ns);
        return;
    }
    if (is_by_another()) {
        owners_.displace(thread);  // the thread that it was placed on has not run
        return;
    }
    thread.may_have_changed = false;
    thread.has_run = false;
    tally_.unproved += stack.verdict == Verdict::kUnproved;
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
    // Without a GIL it has all other threads stopped, but for the finalizers that it calls; who
    // stops them for something else during those looks the same.
    const Interpreter& interpreter = interpreters_.of(thread);
    const bool may_collect = interpreters_.are_free_threaded()
                                 ? interpreter.stop_requester == thread.state
                                 : stack.may_run_python;
    if (may_collect && interpreter.is_collecting) {
        flags |= stream::kStackInGc;
    }
    write_stack(thread, assigned, flags, may_have_run, at_ns);
    writer_.write_share(thread, suspended_.accept(thread, {assigned.refs, assigned.frame_count},
                                                  stack.runs_task, stack.may_run_python));
    if (assigned.lacks_lines) {
        thread.stack.must_resend = true;  // also where it does not run again
        changed_.mark(thread);
    }
}

/// `at_ns`: when the thread had it.
void StackSampler::write_stack(TrackedThread& thread, const AssignedStack& stack,
                               std::uint8_t flags, bool may_have_run, std::int64_t at_ns) {
    if (!thread.has_begun) {
        return;  // it will hold the GIL when it does
    }
    keep(thread.stack, stack);
    if (thread.is_second) {
        thread.stack.frame_count = static_cast<std::uint32_t>(stack.frame_count);
        thread.stack.flags = flags;
        thread.stack.must_resend = true;
        return;
    }
    if (stack.frame_count == 0 && flags == 0 && interpreters_.can_change_threads(thread)) {
        // Of no thread at the moment, as far as is known.
        owners_.retract(thread);
        thread.stack.frame_count = 0;
        thread.stack.flags = 0;
        return;
    }
    // After the lookups, which may have ended a batch that had no room, and all names with it.
    naming_.introduce(thread);
    if (writer_.write_stack(thread, stack, flags, may_have_run, at_ns)) {
        // A thread that got no CPU while its name was looked for has gone on.
        naming_.expect_name(thread);
    }
}

void StackSampler::publish_counts() {
    const code::CodeRegistry::Counts& codes = codes_.counts();
    const StackReader::Counts& reading = stack_reader_.counts();
    ring_->set(Counter::kTornRetried, reading.torn_retried);
    ring_->set(Counter::kTornMarked, tally_.torn_marked);
    ring_->set(Counter::kUnproved, tally_.unproved);
    ring_->set(Counter::kTruncated, tally_.truncated);
    ring_->set(Counter::kInvalid, tally_.invalid);
    ring_->set(Counter::kReadFailures, memory_.read_failures);
    ring_->set(Counter::kFollowMoves, reading.follow_moves);
    ring_->set(Counter::kCodeRevalidated, codes.revalidated);
    ring_->set(Counter::kCodeReplaced, codes.replaced);
    ring_->set(Counter::kTableFull,
               roster_.table_full() + reading.table_full + codes.table_full + labels_.overflows());
    ring_->set(Counter::kNamesFailed, codes.names_failed);
    ring_->set(Counter::kLinesUnknown, codes.lines_unknown);
    ring_->set(Counter::kTasksCut, tasks_.cut() + suspended_.cut());
    ring_->set(Counter::kSnapshots, snapshots_.count());
    ring_->set(Counter::kSnapshotsUnused, snapshots_.unused() + watch_.lost_snapshots());
    ring_->set(Counter::kSamplerReadNs, static_cast<std::uint64_t>(reading.read_ns));
    ring_->set(Counter::kSyscalls,
               memory_.reader.system_calls() + stack_reader_.system_calls() + memory_.clock_calls);
}

}  // namespace echion::sampling
