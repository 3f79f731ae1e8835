#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "bpf/abi.h"
#include "engine/bpf/kernel_time.h"

namespace echion::engine {

/// One snapshot, in the ring's memory: valid until the visitor that got it returns. What it says
/// of frames was copied from a thread that stood still; code objects are not checked.
struct SnapshotView {
    const echion_snapshot& head;
    std::span<const echion_frame> frames;  ///< newest first
    std::int64_t time_ns;                  ///< of the tick, by this process's CLOCK_MONOTONIC
};

/// Reader of the BPF ring buffer into which ticks write the stacks of the threads that they
/// interrupt. One thread at a time; no system call, no waiting, no allocation.
class SnapshotRing {
  public:
    /// Maps the ring behind the descriptor, which may be closed afterwards. `data_bytes`: the size
    /// of its data part, from CpuStateMap::snapshot_ring_bytes(). `clock_ahead_ns`: as there.
    /// kSystem when it cannot be mapped.
    static Result<SnapshotRing> open(int fd, std::size_t data_bytes,
                                     std::int64_t clock_ahead_ns = 0);

    /// Calls visit(const SnapshotView&) for each snapshot written since the last call, oldest
    /// first, and frees its room. At most as many as were there at the start, so that it ends.
    /// Returns how many it visited; a record that breaks the format ends it with kInvalid, and
    /// all that was there is skipped.
    template <typename Visit>
    Result<std::size_t> drain(Visit&& visit) {
        std::size_t visited = 0;
        const std::uint64_t end = written();
        while (read_position() != end) {
            const Record record = next(end);
            if (record.kind == Record::kBusy) {
                break;
            }
            if (record.kind == Record::kBroken) {
                release(end);
                return fail(ErrorKind::kInvalid, "snapshot ring: broken record");
            }
            if (record.kind == Record::kSnapshot) {
                const std::uint64_t time_ns = to_own_time(record.head->time_ns, clock_ahead_ns_);
                visit(
                    SnapshotView{*record.head, record.frames, static_cast<std::int64_t>(time_ns)});
                ++visited;
            }
            release(record.end);
        }
        return visited;
    }

    /// Skips what is there.
    void clear() { release(written()); }

  private:
    struct Record {
        enum Kind { kBusy, kDiscarded, kBroken, kSnapshot };
        Kind kind;
        std::uint64_t end = 0;
        const echion_snapshot* head = nullptr;
        std::span<const echion_frame> frames = {};
    };

    [[nodiscard]] std::uint64_t written() const;
    [[nodiscard]] std::uint64_t read_position() const { return position_; }
    [[nodiscard]] Record next(std::uint64_t end) const;
    void release(std::uint64_t position);

    Mapping consumer_;  // the page with our position, writable
    Mapping producer_;  // the kernel's position, then the data, twice in a row
    const std::byte* data_ = nullptr;
    std::size_t mask_ = 0;
    std::uint64_t position_ = 0;
    std::int64_t clock_ahead_ns_ = 0;
};

/// Where the agent says which thread has which Python thread state: read by the tick's program, in
/// the agent's own memory. One thread writes.
class ThreadRefTable {
  public:
    /// `capacity`: CpuStateMap::capacity(). kNoSpace when there is no memory.
    static Result<ThreadRefTable> make(std::uint32_t capacity);

    /// The thread in this slot has its PyThreadState there. From the next tick on, its stacks come
    /// through the ring. Safe against ticks at any moment.
    void set(std::uint32_t slot, std::uint32_t generation, std::uintptr_t thread_state);
    /// No snapshots of this slot's thread any more: before its thread state is freed, or later (a
    /// tick then reads memory of the target that means something else; `generation` and the
    /// record's thread_state let the reader tell).
    void clear(std::uint32_t slot);

    /// For echion_snapshot_layout::thread_refs.
    [[nodiscard]] std::uint64_t address() const {
        return reinterpret_cast<std::uintptr_t>(refs_.data());
    }

  private:
    FixedArray<echion_thread_ref> refs_;
};

}  // namespace echion::engine
