#include "agent/thread_table.h"

#include <algorithm>
#include <cstring>

#include "base/clock.h"

namespace echion::agent {
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
    auto index = AddressMap::make(2 * kMaxThreads);
    auto blocks = FixedArray<TrackedThread*>::make(threads);
    auto pool = Reservation::make(threads * table.block_bytes_);
    if (!index || !blocks || !pool) {
        return fail(ErrorKind::kNoSpace, "reserve memory for threads");
    }
    table.index_ = std::move(*index);
    table.blocks_ = std::move(*blocks);
    table.pool_ = std::move(*pool);
    return table;
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
    if (slot == blocks_.capacity() || !pool_.grow_to((slot + 1) * block_bytes_) ||
        !index_.set(state, static_cast<std::uint32_t>(slot))) {
        return nullptr;
    }
    std::byte* block = pool_.data() + slot * block_bytes_;
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
    thread.must_resend = true;
    thread.slot = TrackedThread::kNoSlot;
    thread.codes = reinterpret_cast<Address*>(block + sizeof(TrackedThread));
    thread.refs = reinterpret_cast<stream::FrameRef*>(thread.codes + max_frames_);
    return &thread;
}

void ThreadTable::forget_state(TrackedThread& thread) {
    if (find(thread.state) == &thread) {
        index_.erase(thread.state);
    }
}

void ThreadTable::remove(TrackedThread& thread) {
    forget_state(thread);
    thread.in_use = false;
    if (thread.id < free_hint_) {
        free_hint_ = thread.id;
    }
}

}  // namespace echion::agent
