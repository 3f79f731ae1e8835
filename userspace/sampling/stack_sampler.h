#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "code/code_registry.h"
#include "cpython/runtime_view.h"
#include "sampling/changed_stacks.h"
#include "sampling/cpu_accounts.h"
#include "sampling/cpu_watch.h"
#include "sampling/interpreters.h"
#include "sampling/kernel_snapshots.h"
#include "sampling/loop_codes.h"
#include "sampling/process_facts.h"
#include "sampling/python_memory.h"
#include "sampling/running_tasks.h"
#include "sampling/sampler_options.h"
#include "sampling/stack_codes.h"
#include "sampling/stack_reader.h"
#include "sampling/suspended_tasks.h"
#include "sampling/task_labels.h"
#include "sampling/thread_naming.h"
#include "sampling/thread_owners.h"
#include "sampling/thread_roster.h"
#include "sampling/thread_table.h"
#include "sampling/thread_writer.h"
#include "sampling/tick_stream.h"
#include "stream/ring.h"

namespace echion::sampling {

/// The last look that did not find Python started.
struct PythonStart {
    std::int64_t after_ns = 0;     ///< when it was: CLOCK_MONOTONIC
    std::int64_t main_cpu_ns = 0;  ///< CPU time of the process's first thread by then
};

/// Looks at all Python threads of this process once a tick and writes what has changed. One tick:
///     ThreadRoster    which thread states there are, and ThreadOwners, whose they are
///     ChangedStacks   whose stack can have changed
///     StackReader     copies those, and proves the copies; KernelSnapshots has the kernel's
///     StackCodes      which code objects their frames mean
///     ThreadWriter    writes what is new into the TickStream
///     CpuAccounts     writes the CPU time that threads have used
///
/// One tick in the steady state is one system call. Address space is reserved by start(), and by
/// ThreadTable and PageBatch as they grow. Sampler thread only.
class StackSampler final : private VoidBatchListener {
  public:
    StackSampler() = default;
    StackSampler(const StackSampler&) = delete;
    StackSampler& operator=(const StackSampler&) = delete;
    ~StackSampler() = default;

    /// Reserves all memory and starts the stream. `view`'s layout must outlive this object. To be
    /// called by the thread that will call tick(), as ticks are proved by where that thread runs.
    /// `watch`: closed where there is no BPF.
    /// The profile tells of the program from `python_start` on; nobody has looked since.
    Status start(const cpython::RuntimeView& view, const SamplerOptions& options, CpuWatch watch,
                 const ProcessFacts& facts, stream::RingProducer& ring,
                 const PythonStart& python_start);
    /// Ticks come from the kernel, `interval_ns` apart: in CPU mode each for a thread that has used
    /// so much CPU time, and with BPF only those threads are looked at.
    void use_kernel_ticks(std::int64_t interval_ns);
    /// Takes one sample of every thread at `now_ns`.
    void tick(std::int64_t now_ns);
    /// Sleeps for others' sake (CpuShare).
    void rest(std::int64_t duration_ns) { memory_.sleep(duration_ns); }
    /// Takes the last sample, and ends what start() began.
    void stop(std::int64_t now_ns);
    /// The same without a sample.
    void abandon() { stack_reader_.stop(); }

    [[nodiscard]] const CpuWatch& watch() const { return watch_; }
    [[nodiscard]] echion_snapshot_layout watch_layout() const {
        return watch_.snapshot_layout(memory_.layout());
    }

    /// Whether it still may read what it has to: a program can lock itself up (seccomp) with all
    /// its threads, and what is seen of it from then on is only how it was. One system call at
    /// most.
    [[nodiscard]] Status check_access() const;

    /// Whether there is a Python: none before it starts and after Py_Finalize().
    [[nodiscard]] bool has_python() const { return interpreters_.count() > 0; }
    [[nodiscard]] std::size_t thread_count() const { return threads_.size(); }

  private:
    Status reserve();
    void on_void_batch() override;
    void finish_tick();
    void publish_counts();

    void look_at_cpus();
    void end_slot(TrackedThread& thread, const engine::CpuState& state);
    void write_first_interval();
    enum class Marking { kByGil, kMarkedOnly };
    void sample_gil(std::uint32_t gil_index, Marking marking);
    bool mark_by_gil(std::uint32_t gil_index, const cpython::GilState& now);
    void read_stacks(std::uint32_t gil_index, Address last_holder);
    void accept(const ReadStack& stack, std::int64_t at_ns);
    void write_stack(TrackedThread& thread, const AssignedStack& stack, std::uint8_t flags,
                     bool may_have_run, std::int64_t at_ns);

    // With snapshots.
    [[nodiscard]] bool is_alone();
    void use_snapshots();
    void tick_for_events();
    void take_event(TrackedThread& thread, const engine::SnapshotView& snapshot);
    void read_without_snapshot();
    bool write_snapshot(TrackedThread& thread, std::span<cpython::RawFrame> raw,
                        std::int64_t at_ns);
    [[nodiscard]] std::uint8_t gc_flag(const TrackedThread& thread);

    SamplerOptions options_;
    PythonMemory memory_;
    stream::RingProducer* ring_ = nullptr;
    TickStream ticks_{*this};
    CpuWatch watch_;
    ThreadTable threads_;
    Interpreters interpreters_;
    code::CodeRegistry codes_;
    ChangedStacks changed_{threads_, interpreters_};
    ThreadWriter writer_{ticks_, threads_, interpreters_, watch_, options_};
    ThreadNaming naming_{memory_, ticks_, threads_, interpreters_, writer_};
    CpuAccounts accounts_{memory_, ticks_, threads_, watch_, writer_, naming_, options_};
    ThreadOwners owners_{memory_, threads_, interpreters_, changed_,
                         writer_, naming_,  accounts_,     options_};
    TaskLabels labels_;
    RunningTasks tasks_{memory_, interpreters_, labels_};
    LoopCodes loop_codes_{ticks_};
    StackCodes stack_codes_{memory_, ticks_, loop_codes_, codes_, labels_};
    SuspendedTasks suspended_{memory_,      ticks_,      interpreters_, changed_, codes_,
                              stack_codes_, loop_codes_, tasks_,        labels_,  options_};
    ThreadRoster roster_{memory_, ticks_,    threads_, interpreters_, changed_,  codes_,
                         naming_, accounts_, owners_,  tasks_,        suspended_};
    StackReader stack_reader_{memory_, interpreters_, codes_,     stack_codes_,
                              owners_, tasks_,        suspended_, options_};
    KernelSnapshots snapshots_{memory_, threads_, codes_, options_};
    FixedArray<TrackedThread*> ran_;  // threads that have run since the last tick
    std::size_t ran_count_ = 0;
    bool has_kernel_ticks_ = false;
    bool is_stopping_ = false;

    struct Tally {
        std::uint64_t torn_marked, unproved, truncated, invalid;
    };
    Tally tally_{};
};

}  // namespace echion::sampling
