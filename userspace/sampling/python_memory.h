#pragma once

#include <cstdint>

#include "cpython/runtime_view.h"
#include "memory/page_batch.h"
#include "platform/process_reader.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// The Python that is sampled: where it is, and how it is read. What all parts of the sampler that
/// read share. Sampler thread only.
struct PythonMemory {
    cpython::RuntimeView view;
    ProcessReader reader;
    PageBatch batch;  ///< the round that is being read
    std::uint64_t read_failures = 0;
    std::uint64_t clock_calls = 0;  ///< system calls that read a clock, or wait for one

    [[nodiscard]] const cpython::Layout& layout() const { return *view.layout; }

    /// False if it cannot be read, which is counted.
    bool read_gil(Address gil, cpython::GilState* out);
    /// Whether the thread's state is still in its interpreter's list, as it was last read.
    bool is_listed(const TrackedThread& thread);
    /// CPU time of the thread; 0 where its clock cannot be read.
    std::int64_t read_cpu_ns(const TrackedThread& thread);
    /// The calling thread sleeps.
    void sleep(std::int64_t duration_ns);
};

}  // namespace echion::sampling
