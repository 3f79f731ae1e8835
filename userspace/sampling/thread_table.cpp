#include "sampling/thread_table.h"

#include <algorithm>
#include <cstring>

#include "base/clock.h"

namespace echion::sampling {
namespace {

constexpr std::size_t kMaxThreads = cpython::kMaxThreadStates;
constexpr std::size_t kLeastThreads = 16;
// Of the address space, where it is limited: the program needs most of it.
constexpr std::size_t kShareOfLimit = 8;

std::size_t round_to_page(std::size_t size) { return (size + kPageBytes - 1) & ~(kPageBytes - 1); }

}  // namespace

Result<ThreadTable> ThreadTable::make(std::size_t max_frames) {
    ThreadTable table;
    table.max_frames_ = max_frames;
    table.block_bytes_ = round_to_page(sizeof(TrackedThread) +
                                       max_frames * (sizeof(Address) + sizeof(stream::FrameRef)));
    // A 32-bit process has little address space, as has one that may only use so much: fewer
    // threads then.
    const std::size_t budget_bytes =
        fit_address_space(std::size_t{1} << (sizeof(void*) == 8 ? 30 : 26), kShareOfLimit);
    const std::size_t threads =
        std::clamp(budget_bytes / table.block_bytes_, kLeastThreads, kMaxThreads);
    table.blocks_per_segment_ =
        std::max((threads + kMaxSegments - 1) / kMaxSegments, kLeastThreads);
    table.kind_ = pick_mapping_kind();
    auto index = AddressMap::make(2 * kMaxThreads);
    auto blocks = FixedArray<TrackedThread*>::make(threads);
    if (!index || !blocks) {
        return fail(ErrorKind::kNoSpace, "reserve memory for threads");
    }
    table.index_ = std::move(*index);
    table.blocks_ = std::move(*blocks);
    // The first threads have room, whatever comes.
    if (table.find_block(0) == nullptr) {
        return fail(ErrorKind::kNoSpace, "reserve memory for threads");
    }
    return table;
}

/// The memory of a block, which may be used for the first time. Null when there is none.
std::byte* ThreadTable::find_block(std::size_t slot) {
    if (slot >= blocks_.capacity()) {
        return nullptr;
    }
    Reservation& segment = segments_[slot / blocks_per_segment_];
    if (segment.data() == nullptr) {
        if (auto made = Reservation::make(blocks_per_segment_ * block_bytes_, kind_)) {
            segment = std::move(*made);
        }
    }
    const std::size_t offset = slot % blocks_per_segment_ * block_bytes_;
    return segment.grow_to(offset + block_bytes_) ? segment.data() + offset : nullptr;
}

TrackedThread* ThreadTable::find(Address state) {
    const std::uint32_t slot = index_.find(state);
    return slot == AddressMap::kNone ? nullptr : blocks_[slot];
}

TrackedThread* ThreadTable::add(Address state) {
    std::size_t slot = free_hint_;
    while (slot < slot_count_ && blocks_[slot]->in_use) {
        ++slot;
    }
    free_hint_ = slot;
    std::byte* block = find_block(slot);
    if (block == nullptr || !index_.set(state, static_cast<std::uint32_t>(slot))) {
        return nullptr;
    }
    if (slot == slot_count_) {
        ++slot_count_;
        blocks_[slot] = reinterpret_cast<TrackedThread*>(block);
    } else {
        std::memset(block, 0, sizeof(TrackedThread));
    }
    TrackedThread& thread = *blocks_[slot];
    thread.in_use = true;
    thread.state = state;
    thread.id = static_cast<std::uint32_t>(slot);
    thread.stack.must_resend = true;
    thread.slot = TrackedThread::kNoSlot;
    thread.stack.codes = reinterpret_cast<Address*>(block + sizeof(TrackedThread));
    thread.stack.refs = reinterpret_cast<stream::FrameRef*>(thread.stack.codes + max_frames_);
    return &thread;
}

void ThreadTable::forget_state(TrackedThread& thread) {
    ++states_gone_;
    if (find(thread.state) == &thread) {
        index_.erase(thread.state);
    }
}

void ThreadTable::remove(TrackedThread& thread) {
    forget_state(thread);
    set_second(thread, false);
    thread.in_use = false;
    if (thread.id < free_hint_) {
        free_hint_ = thread.id;
    }
}

TrackedThread* ThreadTable::find_other_state(const TrackedThread& thread, bool is_second) const {
    for (TrackedThread& other : with_state()) {
        if (&other != &thread && other.has_begun && other.is_second == is_second &&
            other.runs_on == thread.runs_on) {
            return &other;
        }
    }
    return nullptr;
}

void ThreadTable::set_second(TrackedThread& thread, bool is_second) {
    second_count_ -= thread.is_second;
    thread.is_second = is_second;
    second_count_ += thread.is_second;
}

}  // namespace echion::sampling
