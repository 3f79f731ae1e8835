#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string_view>

#include "agent/futex.h"

namespace echion::agent {

/// The agent's second thread. The sampler has a descriptor table of its own; this one stays in the
/// program's, asleep, for what can be done only there: writing to the program's standard error,
/// closing what was inherited, and being the last thread there is, whose return is the program's
/// exit(0), which writes out what the program has left in its buffers.
///
///     sampler thread                          this thread
///     settle() ─────────────────────────────► wait_until_settled()
///     write_error(), is_terminal() ◄────────► serve()
///     end() ────────────────────────────────► serve() returns
class IoThread {
  public:
    // For the sampler.

    /// Says that the agent's descriptors are where they stay. Any number of calls.
    void settle() { set_and_wake(is_settled_, 1); }
    /// Writes to the program's standard error. False when that has taken nothing for too long (a
    /// full pipe, a terminal after Ctrl-S), is closed or fails.
    bool write_error(std::string_view text);
    /// Whether the program's standard error is a terminal.
    bool is_terminal() { return ask(kAskTerminal); }
    /// No more will be asked: this thread may go once the sampler has.
    void end();
    /// CPU time that it has used.
    [[nodiscard]] std::int64_t cpu_ns() const;
    [[nodiscard]] pid_t tid() const { return tid_.load(); }

    // For the thread itself.

    void begin();
    void wait_until_settled() { wait_while(is_settled_, 0); }
    /// Does what it is asked for until end().
    void serve();

  private:
    enum Request : std::uint32_t { kNone, kWrite, kAskTerminal, kEnd };

    bool ask(Request request);

    FutexWord is_settled_{0};
    FutexWord request_{kNone};
    std::string_view text_;  // of a request, as is the answer
    bool answer_ = false;
    std::atomic<pid_t> tid_{0};
};

}  // namespace echion::agent
