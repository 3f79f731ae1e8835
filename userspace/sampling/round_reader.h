#pragma once

#include <cstddef>
#include <span>

#include "memory/reader.h"
#include "sampling/python_memory.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// Reads from the copies of the round in which a thread's stack was copied, and into them what they
/// do not have; what was read is copied ahead in the thread's next round. Bounded. Sampler thread
/// only.
class RoundReader final : public MemoryReader {
  public:
    RoundReader(PythonMemory& memory, TrackedThread& thread) : memory_(memory), thread_(thread) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override;

    /// Whether something has been refused as there was too much.
    [[nodiscard]] bool is_over() const { return is_over_; }

  private:
    // Ranges that are read for one stack, and of them those that are not in the round.
    static constexpr std::size_t kMaxReads = 4096;
    static constexpr std::size_t kMaxFetches = 256;

    PythonMemory& memory_;
    TrackedThread& thread_;
    std::size_t reads_left_ = kMaxReads;
    std::size_t fetches_left_ = kMaxFetches;
    bool is_over_ = false;
};

}  // namespace echion::sampling
