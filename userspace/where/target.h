#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "cpython/locate.h"
#include "memory/read_budget.h"
#include "memory/stall_guard.h"
#include "platform/process_info.h"
#include "platform/process_reader.h"
#include "report/process_report.h"

namespace echion::where {

/// Why threads on a CPU cannot be told from runnable ones.
constexpr std::string_view kLacksCounts =
    "this kernel counts no run times of threads (CONFIG_SCHED_INFO): which threads are on a CPU, "
    "and "
    "which are runnable, cannot be told";

/// A Python process that is looked at from outside. Nothing in it is stopped or changed.
class Target {
  public:
    /// Opens a process, or says in one line why it cannot be looked at and what can be done. Each
    /// read is a section of the guard, if there is one. Waits a moment for a process that executes
    /// another program just now.
    static tl::expected<std::unique_ptr<Target>, std::string> open(pid_t pid,
                                                                   StallGuard* guard = nullptr);

    explicit Target(StallGuard* guard) : guarded_(reader_, guard) {}

    [[nodiscard]] pid_t pid() const { return pid_; }
    /// Reads within the budget of the last begin_reading().
    [[nodiscard]] MemoryReader& reader() { return budgeted_; }
    /// Begins another piece of work: a report, a sample.
    void begin_reading(const ReadLimits& limits) { budget_ = ReadBudget(limits); }
    [[nodiscard]] ReadBudget& budget() { return budget_; }
    [[nodiscard]] const cpython::RuntimeView& view() const { return located_.view; }
    /// Whether Python had started, and not ended, when the process was opened.
    [[nodiscard]] bool is_ready() const { return located_.is_ready; }
    [[nodiscard]] report::ReportHeader header() const;
    /// Whether the process has any memory left, that is, has not ended.
    [[nodiscard]] bool is_alive() const;
    /// One line on an error that came up later.
    [[nodiscard]] std::string explain(const Error& error) const;

  private:
    struct Refusal {
        std::string text;
        bool may_pass;  ///< in a program that has only just begun
    };
    static tl::expected<std::unique_ptr<Target>, Refusal> open_once(pid_t pid, StallGuard* guard);
    std::string find_contradiction();

    pid_t pid_ = 0;
    // The task that its memory is reached through: the first, unless that has ended before others.
    pid_t memory_tid_ = 0;
    ProcessInfo info_;
    ProcessReader reader_;
    GuardedReader guarded_;
    ReadBudget budget_{kLocateLimits};
    BudgetedReader budgeted_{guarded_, budget_};
    cpython::LocatedRuntime located_;
};

}  // namespace echion::where
