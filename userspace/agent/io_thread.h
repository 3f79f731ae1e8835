#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/unique_fd.h"
#include "platform/wake_word.h"

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
///
/// Standard error is not to be waited for, and its open file is the program's, so that O_NONBLOCK
/// may not be set on it:
///
///     a file                                  written to by this thread
///     a socket                                likewise, with MSG_DONTWAIT
///     a pipe, a FIFO, a terminal              opened anew by the sampler, in its own table, with
///                                             O_NONBLOCK
///     one that may not be opened anew         written to by this thread when it polls as writable.
///     (another user's, no table of its own,   Should another writer fill it in between, this
///     a seccomp filter)                       thread sleeps until it takes something; the sampler
///                                             waits two seconds at most, and leaves without it.
class IoThread {
  public:
    // For the sampler.

    /// Says that the agent's descriptors are where they stay. Any number of calls.
    void settle() { set_and_wake(is_settled_, 1); }
    /// The calling thread has a descriptor table of its own.
    void set_own_table(bool has_own_table) { has_own_table_ = has_own_table; }
    /// Writes to the program's standard error. False when that has taken nothing for too long (a
    /// full pipe, a terminal after Ctrl-S), is closed or fails.
    bool write_error(std::string_view text);
    /// Whether the program's standard error is a terminal.
    bool is_terminal() { return ask(kAskKind) == kTerminal; }
    /// No more will be asked: this thread may go once the sampler has.
    void end();
    /// CPU time that it has used.
    [[nodiscard]] std::int64_t cpu_ns() const;
    /// Its numbers, the kernel's and the C library's (pthread_t); 0 until begin().
    [[nodiscard]] pid_t tid() const { return tid_.load(); }
    [[nodiscard]] std::uintptr_t thread_id() const { return thread_id_.load(); }

    // For the thread itself.

    void begin();
    void wait_until_settled() { wait_while(is_settled_, 0); }
    /// Does what it is asked for until end().
    void serve();

  private:
    enum Request : std::uint32_t { kNone, kWrite, kAskKind, kEnd };
    /// Of standard error.
    enum Kind : int { kUnknown, kFile, kSocket, kPipe, kTerminal };

    // For the sampler.
    std::optional<int> ask(Request request);
    [[nodiscard]] UniqueFd open_anew(int kind) const;
    // For the thread itself.
    int find_kind();
    [[nodiscard]] int write_piece() const;

    WakeWord is_settled_{0};
    WakeWord request_{kNone};
    // Of a request: the sampler's while it is kNone.
    std::array<char, 4096> piece_;
    std::size_t piece_bytes_ = 0;
    int answer_ = 0;
    int kind_ = kUnknown;
    bool has_own_table_ = false;  // the sampler
    std::atomic<std::uintptr_t> thread_id_{0};
    std::atomic<pid_t> tid_{0};
};

}  // namespace echion::agent
