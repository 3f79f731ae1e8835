#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/frame_walker.h"
#include "engine/bpf/snapshot_ring.h"
#include "sampling/python_memory.h"
#include "sampling/sampler_options.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// The stacks that the kernel copied of threads that it interrupted: which of them can be used, and
/// those that wait for their threads' turn in the tick that they came in. Sampler thread only.
class KernelSnapshots {
  public:
    KernelSnapshots(PythonMemory& memory, const ThreadTable& threads,
                    const code::CodeRegistry& codes, const SamplerOptions& options)
        : memory_(memory), threads_(threads), codes_(codes), options_(options) {}
    Status reserve();

    /// The frames of a snapshot, newest first, good until the next call of this or of begin_tick();
    /// none where it cannot be used, which is counted.
    std::span<cpython::RawFrame> convert(const engine::SnapshotView& snapshot);
    void begin_tick() { used_ = 0; }
    /// Keeps a snapshot, whose thread it is, until begin_tick().
    void keep(TrackedThread& thread, const engine::SnapshotView& snapshot, std::int64_t tick_ns);
    [[nodiscard]] std::span<cpython::RawFrame> kept(const TrackedThread& thread) {
        return {frames_.data() + thread.snapshot_first, thread.snapshot_count};
    }

    void count_unused() { ++unused_; }
    [[nodiscard]] std::uint64_t count() const { return count_; }
    [[nodiscard]] std::uint64_t unused() const { return unused_; }

  private:
    bool is_first_of_stack(const echion_frame& root);

    PythonMemory& memory_;
    const ThreadTable& threads_;
    const code::CodeRegistry& codes_;
    const SamplerOptions& options_;
    FixedArray<cpython::RawFrame> frames_;
    std::size_t used_ = 0;                  // frames that are kept
    std::array<Address, 64> starts_{};      // first frames of data stacks, by their chunks…
    std::uint64_t starts_states_gone_ = 0;  // …of threads that have not gone by then
    std::uint64_t count_ = 0;
    std::uint64_t unused_ = 0;
};

}  // namespace echion::sampling
