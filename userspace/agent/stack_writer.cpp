// The part of StackSampler that compares stacks with the last ones and writes what is new.

#include <algorithm>

#include "agent/stack_sampler.h"

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

}  // namespace

void StackSampler::define_unknown_code() {
    encoder_->label(CodeRegistry::kUnknownCode, "<unknown>");
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
    if (watch_.is_open()) {
        unlisted_.forget_announcements();
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
