#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstdint>

#include "platform/linux/scheduler.h"

namespace echion::inject {

/// Makes the calling thread one that keeps a stopped thread waiting as short as it can: it sleeps
/// until the kernel tells of a stop (SIGCHLD is blocked and taken synchronously), and goes before
/// others when it is woken, where it may (SCHED_RR); in an OrdinaryTurn it has the best place among
/// ordinary threads (nice -20, the shortest slice). Undone by the destructor. One for all sessions
/// of a thread; sessions work without it, slower.
class PromptTracer {
  public:
    PromptTracer();
    ~PromptTracer();
    PromptTracer(const PromptTracer&) = delete;
    PromptTracer& operator=(const PromptTracer&) = delete;

    /// The slice that threads have here which have not asked for one.
    [[nodiscard]] std::uint64_t usual_slice_ns() const { return kept_.runtime_ns; }

  private:
    sigset_t kept_signals_{};
    SchedulerAttributes kept_{};
    int kept_slack_ns_ = 0;
    bool has_kept_ = false;
};

/// Takes the calling thread's turn among ordinary threads for its lifetime, where it goes before
/// others (SCHED_RR): for work that a hostile target could draw out. Two system calls of less than
/// a microsecond each; none of them where the thread is an ordinary one.
class OrdinaryTurn {
  public:
    OrdinaryTurn();
    ~OrdinaryTurn();
    OrdinaryTurn(const OrdinaryTurn&) = delete;
    OrdinaryTurn& operator=(const OrdinaryTurn&) = delete;

  private:
    int kept_policy_;
    int kept_priority_ = 0;
};

/// Asks the scheduler to let a traced thread run soon whenever it becomes ready, by the shortest
/// slice there is (Linux 6.12), so that a borrowed thread does not wait behind others at each of
/// its steps. Its priority and share stay as they are. Undone by the destructor; if this process
/// dies before, a short slice stays, which changes nothing but how often the thread is scheduled.
class PromptThread {
  public:
    PromptThread(pid_t tid, const PromptTracer& tracer);
    ~PromptThread();
    PromptThread(const PromptThread&) = delete;
    PromptThread& operator=(const PromptThread&) = delete;

  private:
    pid_t tid_;
    SchedulerAttributes kept_{};
    bool has_changed_ = false;
};

/// Waits for the kernel's word that a traced thread has changed its state; at most for a nap (2 ms)
/// or until the deadline (CLOCK_MONOTONIC).
void await_child_signal(std::int64_t deadline_ns);

}  // namespace echion::inject
