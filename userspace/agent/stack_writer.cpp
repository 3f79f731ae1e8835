// The part of StackSampler that compares stacks with the last ones and writes what is new.

#include <time.h>

#include <algorithm>
#include <cstring>

#include "agent/stack_sampler.h"
#include "base/clock.h"
#include "platform/thread_clock.h"

namespace echion::agent {
namespace {

using stream::Counter;

// A tick that grows beyond this goes on in another batch.
constexpr std::size_t kBatchBytes = stream::kMaxBatchBytes / 4;
// So that whatever comes next, a stack or a code object's names and line table, fits in.
constexpr std::size_t kMostFrameBytes = 10;
static_assert(kBatchBytes + kMostFrameBytes * stream::kMaxFrames < stream::kMaxBatchBytes);
static_assert(kBatchBytes + stream::kMaxLineTableBytes + 4 * stream::kMaxTextBytes <
              stream::kMaxBatchBytes);
// A stack is looked up again when a code object changes its id meanwhile; rarely more than once.
constexpr int kLookups = 4;
// How often CPU time that no thread's clock shows is looked for.
constexpr std::int64_t kSettlePeriodNs = 100'000'000;
// Less of it waits for the next look.
constexpr std::int64_t kLeastUnseenNs = 1'000'000;

}  // namespace

void StackSampler::define_unknown_code() {
    encoder_->label(CodeRegistry::kUnknownCode, "<unknown>");
}

std::string_view StackSampler::find_name(const TrackedThread& thread) const {
    std::string_view name = names_.find(interpreters_[thread.interpreter].head.id, thread.runs_on);
    // `threading` of the interpreter that started it has the name, and perhaps no other one.
    for (std::uint32_t i = 0; i < interpreter_count_ && name.empty(); ++i) {
        name = names_.find(interpreters_[i].head.id, thread.runs_on);
    }
    return name;
}

/// Names go by pthread_t, which is another thread's as soon as the one that had it has ended:
/// whether that one still has a state of its own, after its name was read.
bool StackSampler::is_named_by_right(const TrackedThread& thread) {
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        const TrackedThread& one = threads_.slot(i);
        if (one.in_use && !one.has_left && one.runs_on == thread.runs_on &&
            one.head.thread_id == thread.runs_on && is_intact(one)) {
            return true;
        }
    }
    return false;
}

/// True if that is news.
bool StackSampler::note_name(TrackedThread& thread) {
    if (thread.has_left) {
        return false;
    }
    const std::string_view name = find_name(thread).substr(0, sizeof(thread.name));
    if (name.empty() || name == thread.name_view()) {
        return false;
    }
    if (!is_named_by_right(thread)) {
        interpreters_[thread.interpreter].list_changed = true;
        return false;
    }
    std::memcpy(thread.name, name.data(), name.size());
    thread.name_bytes = static_cast<std::uint32_t>(name.size());
    return true;
}

void StackSampler::announce(TrackedThread& thread) {
    bool is_news = note_name(thread);
    if (thread.name_bytes == 0 && !thread.is_announced && !thread.has_left) {
        scan_names();
        is_news = note_name(thread);
    }
    if (thread.name_bytes == 0) {
        // Not known to `threading`: the main thread before its import, or a thread from C, which
        // has no name (yet).
        nameless_scans_ = thread.is_announced ? nameless_scans_ : kNamelessScans;
        thread.name_looks = thread.is_announced ? thread.name_looks : kNamelessScans;
        const std::string_view name = thread.is_main ? "MainThread" : "";
        std::memcpy(thread.name, name.data(), name.size());
        thread.name_bytes = static_cast<std::uint32_t>(name.size());
        is_news = is_news || !name.empty();
    }
    if (thread.is_announced && !is_news) {
        return;
    }
    thread.is_announced = true;
    encoder_->thread(thread.id, interpreters_[thread.interpreter].head.id, thread.native_id,
                     thread.name_view());
}

bool StackSampler::assign_refs(TrackedThread& thread, std::span<const cpython::RawFrame> raw,
                               std::size_t* kept) {
    const std::uint32_t numbering = codes_.numbering();
    const Address trampoline = codes_.trampoline();
    const std::size_t count = raw.size();
    const bool has_same_ids = thread.codes_numbering == numbering;
    const std::size_t common = has_same_ids ? std::min<std::size_t>(count, thread.frame_count) : 0;
    const std::size_t held =
        has_same_ids && codes_.holds_since(thread.refs_look) ? thread.refs_count : 0;
    *kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const cpython::RawFrame& frame = raw[count - 1 - i];
        stream::FrameRef ref{0, frame.offset};
        if (i > 0 && thread.codes[i - 1] == frame.code) {
            ref.code_id = thread.refs[i - 1].code_id;  // recursion
        } else if (i < held && thread.codes[i] == frame.code &&
                   thread.refs[i].code_id != CodeRegistry::kUnknownCode) {
            ref.code_id = thread.refs[i].code_id;
        } else {
            ref.code_id = codes_.find_id(reader_, *encoder_, frame.code);
        }
        ref.offset = codes_.find_place(reader_, frame.code, frame.offset);
        if (*kept == i && i < common && thread.refs[i] == ref) {
            ++*kept;
        }
        thread.codes[i] = frame.code;
        thread.refs[i] = ref;
        split_batch();
    }
    thread.codes_numbering = codes_.numbering();
    thread.refs_look = codes_.look();
    thread.refs_count = static_cast<std::uint32_t>(count);
    // Else what has been assigned may be outdated: once more.
    return codes_.numbering() == numbering && codes_.trampoline() == trampoline;
}

StackSampler::AssignedStack StackSampler::assign_stack(TrackedThread& thread,
                                                       std::span<cpython::RawFrame> raw) {
    std::size_t kept = 0;
    std::size_t least_kept = raw.size();
    for (int lookup = 0; lookup < kLookups; ++lookup) {
        const bool is_done = assign_refs(thread, raw, &kept);
        least_kept = std::min(least_kept, kept);
        if (is_done) {
            break;
        }
        // Only just met, the trampoline is still in this stack.
        const auto end = std::remove_if(raw.begin(), raw.end(), [&](const auto& frame) {
            return frame.code == codes_.trampoline();
        });
        raw = raw.first(static_cast<std::size_t>(end - raw.begin()));
    }
    // `kept` of a later lookup compares with what an earlier one has written over.
    return {raw.size(), least_kept};
}

/// Until when it is known what the thread did. From then on, or from its beginning if that was
/// later, nobody has looked.
std::int64_t StackSampler::known_until_ns(const TrackedThread& thread) const {
    // What the GIL says since then: its last holder can have had it again meanwhile. Where the
    // kernel tells who has run, that one may not have been read, as it had not run by then.
    const bool has_slot = thread.slot != TrackedThread::kNoSlot;
    const std::int64_t held_ns =
        has_slot ? 0 : gils_[interpreters_[thread.interpreter].gil].held_before_ns;
    const std::int64_t looked_ns = std::max(last_look_ns_, held_ns);
    if (thread.seen_ns == 0 && has_ticked_ && has_slot) {
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
bool StackSampler::has_waited_since(const TrackedThread& thread, std::int64_t since_ns,
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

/// `at_ns`: when it had this stack.
void StackSampler::write_stack(TrackedThread& thread, const AssignedStack& stack,
                               std::uint8_t flags, bool may_have_run, std::int64_t at_ns) {
    if (!thread.has_begun) {
        return;  // it will hold the GIL when it does
    }
    if (thread.is_second) {
        thread.frame_count = static_cast<std::uint32_t>(stack.frame_count);
        thread.flags = flags;
        thread.must_resend = true;
        return;
    }
    if (stack.frame_count == 0 && flags == 0 && can_change_threads(thread)) {
        // Of no thread at the moment, as far as is known.
        retract(thread);
        thread.frame_count = 0;
        thread.flags = 0;
        return;
    }
    // After the lookups, which may have ended a batch that had no room, and all names with it.
    if (!thread.is_announced) {
        announce(thread);
    }
    const std::size_t kept = thread.must_resend ? 0 : stack.kept;
    const bool is_same = kept == stack.frame_count && kept == thread.frame_count &&
                         flags == thread.flags && !thread.must_resend;
    thread.frame_count = static_cast<std::uint32_t>(stack.frame_count);
    thread.flags = flags;
    if (!options_.cpu_mode && (may_have_run || !is_same)) {
        const std::int64_t known_ns = known_until_ns(thread);
        // A thread's first stack is given the time since the tick before: not that of a gap in
        // which the thread began.
        const bool began_in_gap = thread.seen_ns == 0 && known_ns > last_look_ns_ &&
                                  previous_ns_ - last_look_ns_ > longest_gap_ns();
        // Earlier parts of a tick that others interrupted have gone to the stack of before.
        const bool is_unknown = at_ns - known_ns > longest_gap_ns() &&
                                (part_since_ns_ - known_ns > longest_gap_ns() ||
                                 !has_waited_since(thread, known_ns + longest_gap_ns(), at_ns));
        if (is_unknown || began_in_gap) {
            encoder_->missed(thread.id, static_cast<std::uint64_t>(
                                            std::max<std::int64_t>(previous_ns_ - known_ns, 0)));
        }
    }
    if (is_same) {
        return;
    }
    // A thread that got no CPU while its name was looked for has gone on.
    if (thread.name_bytes == 0 && thread.name_looks > 0) {
        --thread.name_looks;
        nameless_scans_ = std::max(nameless_scans_, 1);
    }
    thread.must_resend = false;
    encoder_->stack(thread.id, flags, static_cast<std::uint32_t>(kept),
                    {thread.refs + kept, stack.frame_count - kept});
    split_batch();
}

bool StackSampler::write_snapshot(TrackedThread& thread, std::span<cpython::RawFrame> raw,
                                  std::int64_t at_ns) {
    codes_.begin_look(reader_);
    batch_.reset();
    codes_.check(reader_, batch_, raw, {thread.codes, thread.refs_count}, thread.refs_look);
    // The thread has run on since: what was not known before may have been another code object.
    if (!codes_.were_known(raw, at_ns)) {
        ++tally_.snapshots_unused;
        return false;
    }
    const std::uint64_t code_reads = codes_.reads();
    const AssignedStack assigned = assign_stack(thread, raw);
    if (codes_.reads() != code_reads) {
        // Lines were read later than the stack: the plain way proves that they are its own.
        thread.must_resend = true;
        ++tally_.snapshots_unused;
        return false;
    }
    write_stack(thread, assigned, gc_flag(thread), true, at_ns);
    thread.times_between = 0;
    thread.seen_ns = at_ns;
    return true;
}

void StackSampler::split_batch() {
    if (encoder_->batch_bytes() > kBatchBytes) {
        commit();
        encoder_->continue_tick(0);
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

/// What a thread did that may have been Python's is not known where nobody looked: for long, or
/// (`is_unseen`) while it lived.
void StackSampler::write_stranger_cpu(std::uint32_t slot, const CpuState& state, bool is_unseen) {
    // Numbers behind those of the threads that Python knows.
    const auto id = static_cast<std::uint32_t>(cpython::kMaxThreadStates + slot);
    Stranger& stranger = strangers_[slot];
    const auto cpu_ns =
        static_cast<std::int64_t>(state.cpu_ns_at(static_cast<std::uint64_t>(now_ns_)));
    if (id >= stream::kMaxThreads || cpu_ns <= stranger.cpu_ns) {
        return;
    }
    if (!stranger.is_announced) {
        encoder_->thread(id, 0, state.tid, "");
        stranger.is_announced = true;
    }
    const std::int64_t used_ns = cpu_ns - stranger.cpu_ns;
    if (!stranger.is_foreign && (is_unseen || used_ns > longest_gap_ns())) {
        encoder_->missed(id, static_cast<std::uint64_t>(used_ns));
    } else {
        encoder_->cpu(id, static_cast<std::uint64_t>(used_ns));
    }
    stranger.cpu_ns = cpu_ns;
}

void StackSampler::commit() {
    if (encoder_->commit()) {
        return;
    }
    // Everything in the batch is void: say it all again, in the next one that has room.
    codes_.forget_batch();
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (thread.in_use) {
            thread.is_announced = false;
            thread.must_resend = true;
            mark(thread);
        }
    }
    is_unseen_announced_ = false;
    for (std::size_t slot = 0; slot < strangers_.capacity() && watch_.is_open(); ++slot) {
        strangers_[slot].is_announced = false;
    }
}

void StackSampler::publish_counts() {
    const CodeRegistry::Counts& codes = codes_.counts();
    ring_->set(Counter::kTornRetried, tally_.torn_retried);
    ring_->set(Counter::kTornMarked, tally_.torn_marked);
    ring_->set(Counter::kUnproved, tally_.unproved);
    ring_->set(Counter::kTruncated, tally_.truncated);
    ring_->set(Counter::kInvalid, tally_.invalid);
    ring_->set(Counter::kReadFailures, tally_.read_failures);
    ring_->set(Counter::kFollowMoves, tally_.follow_moves);
    ring_->set(Counter::kCodeRevalidated, codes.revalidated);
    ring_->set(Counter::kCodeReplaced, codes.replaced);
    ring_->set(Counter::kTableFull, tally_.table_full + codes.table_full);
    ring_->set(Counter::kNamesFailed, codes.names_failed);
    ring_->set(Counter::kLinesUnknown, codes.lines_unknown);
    ring_->set(Counter::kSnapshots, tally_.snapshots);
    ring_->set(Counter::kSnapshotsUnused, tally_.snapshots_unused + watch_.lost_snapshots());
    ring_->set(Counter::kSamplerReadNs, static_cast<std::uint64_t>(read_ns_));
    ring_->set(Counter::kSyscalls,
               reader_.system_calls() + same_cpu_.system_calls() + clock_reads_);
}

}  // namespace echion::agent
