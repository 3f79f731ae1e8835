#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/clock.h"
#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/thread_list.h"
#include "sampling/changed_stacks.h"
#include "sampling/cpu_accounts.h"
#include "sampling/interpreters.h"
#include "sampling/process_facts.h"
#include "sampling/python_memory.h"
#include "sampling/running_tasks.h"
#include "sampling/suspended_tasks.h"
#include "sampling/thread_naming.h"
#include "sampling/thread_owners.h"
#include "sampling/thread_table.h"
#include "sampling/tick_stream.h"

namespace echion::sampling {

/// Which interpreters and thread states there are: follows Python's lists of them as they come and
/// go. Sampler thread only.
class ThreadRoster {
  public:
    ThreadRoster(PythonMemory& memory, TickStream& ticks, ThreadTable& threads,
                 Interpreters& interpreters, ChangedStacks& changed, code::CodeRegistry& codes,
                 ThreadNaming& naming, CpuAccounts& accounts, ThreadOwners& owners,
                 RunningTasks& tasks, SuspendedTasks& suspended)
        : memory_(memory),
          ticks_(ticks),
          threads_(threads),
          interpreters_(interpreters),
          changed_(changed),
          codes_(codes),
          naming_(naming),
          accounts_(accounts),
          owners_(owners),
          tasks_(tasks),
          suspended_(suspended) {}
    Status reserve();
    void start(const ProcessFacts& facts);

    /// Looks at the interpreters, and at their lists where that is due.
    void refresh();
    /// Walks those lists of a GIL's interpreters that have changed. False if none has.
    bool walk_changed_lists(std::uint32_t gil_index);
    /// The same of all.
    bool walk_changed_lists();
    /// Whether the first interpreter is the one that was first when refresh() last looked.
    bool is_unchanged();
    [[nodiscard]] std::uint64_t table_full() const { return table_full_; }

  private:
    void refresh_interpreters();
    void replace_interpreters(std::span<const cpython::InterpreterHead> heads);
    void watch_version_counter();
    void look_at_lists();
    void forget_python();
    void walk_list(std::uint32_t interpreter);
    void end_unlisted(std::uint32_t interpreter, std::uint32_t visit);
    TrackedThread* meet(std::uint32_t interpreter, Address state, const cpython::ThreadHead& head);

    PythonMemory& memory_;
    TickStream& ticks_;
    ThreadTable& threads_;
    Interpreters& interpreters_;
    ChangedStacks& changed_;
    code::CodeRegistry& codes_;
    ThreadNaming& naming_;
    CpuAccounts& accounts_;
    ThreadOwners& owners_;
    RunningTasks& tasks_;
    SuspendedTasks& suspended_;
    FixedArray<cpython::ListedState> listed_;  // one interpreter's, newest first
    Address static_from_;                      // static data of the interpreter: see CodeRegistry
    std::size_t static_bytes_ = 0;
    Address interpreters_head_;
    std::uintptr_t main_thread_id_ = 0;
    const std::atomic<std::uint32_t>* python_starts_ = nullptr;
    std::uint32_t known_starts_ = 0;
    std::uint32_t visit_ = 0;
    std::int64_t walked_ns_ = kLongAgoNs;
    std::uint64_t table_full_ = 0;
};

}  // namespace echion::sampling
