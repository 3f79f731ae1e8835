#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "sampling/interpreters.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// Whose stack has to be read in this tick. Only that of a thread that held the GIL since the last
/// one can have changed. The GIL says who holds it or held it last, and counts how often it went to
/// another thread, so:
///     no switch       the last holder's
///     one switch      the last holder's, and the one's before it
///     more            any
/// and without a GIL any.
/// All others keep the stack they had, and cost nothing. With BPF the kernel says which threads
/// have run at all, and only those are considered. Sampler thread only.
class ChangedStacks {
  public:
    ChangedStacks(ThreadTable& threads, Interpreters& interpreters)
        : threads_(threads), interpreters_(interpreters) {}
    Status reserve();

    void mark(TrackedThread& thread);
    /// Marks those that may have held the GIL since it was last sampled. One that no list has is
    /// looked for in the lists of its interpreters.
    void mark_holders(std::uint32_t gil_index, const cpython::GilState& now);
    /// Those of one GIL that have to be read; good until the next call.
    std::span<TrackedThread*> select(std::uint32_t gil_index);
    /// Forgets those that have been read.
    void forget_read();
    [[nodiscard]] bool is_empty() const { return count_ == 0; }
    [[nodiscard]] std::span<TrackedThread*> all() { return {changed_.data(), count_}; }

  private:
    void mark_all(std::uint32_t gil_index);

    ThreadTable& threads_;
    Interpreters& interpreters_;
    FixedArray<TrackedThread*> changed_;  // threads whose may_have_changed is set
    FixedArray<TrackedThread*> selected_;
    std::size_t count_ = 0;
};

}  // namespace echion::sampling
