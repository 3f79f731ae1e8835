#include "sampling/unlisted_threads.h"

#include <algorithm>
#include <utility>

namespace echion::sampling {
namespace {

// For so long after a thread has been met, each look at it looks for it in Python's lists.
constexpr std::int64_t kBeginningNs = 20'000'000;
// A thread that Python's lists have not had for so long is none of Python's.
constexpr std::int64_t kUnlistedNs = 500'000'000;

std::uint32_t stream_id(std::uint32_t slot) {
    return static_cast<std::uint32_t>(cpython::kMaxThreadStates + slot);
}

}  // namespace

Result<UnlistedThreads> UnlistedThreads::make() {
    auto entries = FixedArray<Entry>::make(ECHION_MAX_THREADS);
    if (!entries) {
        return tl::unexpected(entries.error());
    }
    UnlistedThreads threads;
    threads.entries_ = std::move(*entries);
    return threads;
}

bool UnlistedThreads::note(std::uint32_t slot, const CpuWatch& watch, stream::Encoder& encoder,
                           const Tick& tick) {
    Entry& entry = entries_[slot];
    const auto state = watch.read_own(slot);
    if (!state) {
        return false;
    }
    const bool is_new = state->generation != entry.generation;
    if (is_new) {
        entry = {state->generation, tick.now_ns, false, false, watch.first_cpu_ns(slot, *state)};
    }
    // Not at once: a walk of the lists may tell whose thread it is.
    const bool is_old = tick.now_ns - entry.met_ns > kUnlistedNs;
    if (tick.cpu_mode && (state->ended || is_old)) {
        write_cpu(slot, *state, is_new && state->ended, encoder, tick);
        if (state->ended) {
            end(slot, encoder);
        }
        entry.is_foreign = is_old && !state->ended;
    }
    // A thread that has just begun: Python's own, most likely, which has to enter its numbers.
    return tick.now_ns - entry.met_ns < kBeginningNs;
}

void UnlistedThreads::take_over(TrackedThread& thread, stream::Encoder& encoder) {
    if (thread.slot == TrackedThread::kNoSlot) {
        return;
    }
    Entry& entry = entries_[thread.slot];
    if (entry.generation != thread.slot_generation) {
        return;
    }
    thread.cpu_ns = std::max(thread.cpu_ns, entry.cpu_ns);
    end(thread.slot, encoder);
}

void UnlistedThreads::end(std::uint32_t slot, stream::Encoder& encoder) {
    if (entries_[slot].is_announced) {
        encoder.thread_end(stream_id(slot));
        entries_[slot].is_announced = false;
    }
}

/// What a thread did that may have been Python's is not known where nobody looked: for long, or
/// (`is_unseen`) while it lived.
void UnlistedThreads::write_cpu(std::uint32_t slot, const engine::CpuState& state, bool is_unseen,
                                stream::Encoder& encoder, const Tick& tick) {
    const std::uint32_t id = stream_id(slot);
    Entry& entry = entries_[slot];
    const auto cpu_ns =
        static_cast<std::int64_t>(state.cpu_ns_at(static_cast<std::uint64_t>(tick.now_ns)));
    if (id >= stream::kMaxThreads || cpu_ns <= entry.cpu_ns) {
        return;
    }
    if (!entry.is_announced) {
        encoder.thread(id, 0, state.tid, "");
        entry.is_announced = true;
    }
    const std::int64_t used_ns = cpu_ns - entry.cpu_ns;
    if (!entry.is_foreign && (is_unseen || used_ns > tick.longest_gap_ns)) {
        encoder.missed(id, static_cast<std::uint64_t>(used_ns));
    } else {
        encoder.cpu(id, static_cast<std::uint64_t>(used_ns));
    }
    entry.cpu_ns = cpu_ns;
}

void UnlistedThreads::forget_announcements() {
    for (std::size_t slot = 0; slot < entries_.capacity(); ++slot) {
        entries_[slot].is_announced = false;
    }
}

}  // namespace echion::sampling
