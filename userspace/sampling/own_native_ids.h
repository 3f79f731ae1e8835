#pragma once

#include <cstddef>
#include <cstdint>

#include "cpython/runtime_view.h"
#include "memory/reader.h"
#include "sampling/process_facts.h"

namespace echion::sampling {

/// The kernel's numbers of this process's Python threads. Sampler thread only.
class OwnNativeIds {
  public:
    /// Finds where the C library keeps them, by those of the calling thread and of the agent's
    /// other one.
    void open(MemoryReader& reader, const ProcessFacts& facts);
    /// The number of the thread that a state names; 0 where it has none that the kernel knows.
    [[nodiscard]] std::uint32_t find(MemoryReader& reader, const cpython::ThreadHead& head) const;

  private:
    std::size_t offset_ = 0;  // into what a pthread_t points to; 0: not found
};

}  // namespace echion::sampling
