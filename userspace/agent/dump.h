#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "agent/guest.h"
#include "agent/io_thread.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mapping.h"
#include "cpython/locate.h"
#include "cpython/runtime_view.h"
#include "platform/process_reader.h"
#include "platform/same_cpu.h"
#include "report/process_report.h"

namespace echion::agent {

/// Answers SIGQUIT with the stacks of all threads, on the process's standard error.
///
/// The signal's handler only asks for it, by a flag, and calls the handler that the application
/// had; where there was none, the signal no longer ends the process. A sampler that may sleep for
/// long is woken by a signal of its own: no descriptor, which would stand among the application's.
/// The sampler thread writes: it needs no lock of the interpreter or of the C library, so that a
/// thread which holds the GIL for ever, or all threads in a deadlock, do not keep it from that.
///
///     application's thread                        sampler thread                 IoThread
///     SIGQUIT ─► handler ─ flag, SIGIO ─────────► TickTimer::wait() … serve() ─► write(2)
///                  └─► handler that was there
///
/// Where the signal is ignored it stays so: a handler in its place would be the default action for
/// the programs that this one starts (execve(2)). There are no dumps then.
///
/// Sampler thread only, unless said otherwise. At most one object of it is started at a time.
class StackDump {
  public:
    StackDump() = default;
    StackDump(const StackDump&) = delete;
    StackDump& operator=(const StackDump&) = delete;
    ~StackDump() { stop(); }

    /// Takes all memory that a dump needs, and the signal. The runtime's layout must outlive this.
    Status start(const cpython::LocatedRuntime& runtime, std::size_t max_frames,
                 const GuestFacts& facts, IoThread& io);
    /// Gives the signal back to whom it belonged, if it is still ours. Any state; nothing is left.
    void stop();

    /// Writes a dump if one has been asked for. Takes a millisecond or a few, and up to two seconds
    /// when standard error takes nothing.
    void serve();
    /// Has the calling thread, which has it blocked, told of each request by SIGIO from now on.
    void signal_requests();
    /// Python's signal.signal() does not call the handler that it replaces. So when Python code has
    /// taken the signal, puts the handler back in front of Python's, which is called as before. To
    /// be called now and then; looks every kLookNs.
    void keep_signal(std::int64_t now_ns);

    /// In the child of a fork, where there is no sampler: gives the signal back. Signal-safe.
    static void forget_after_fork();

  private:
    static constexpr std::int64_t kLookNs = 100'000'000;

    void write_dump();
    [[nodiscard]] bool is_python_s(const struct sigaction& action) const;

    std::optional<report::ProcessReport> report_;
    cpython::RuntimeView view_;
    // Code of the executable or library that holds the runtime; empty if not known.
    Address code_start_;
    Address code_end_;
    ProcessReader reader_;
    SameCpu same_cpu_;
    FixedArray<char> buffer_;
    IoThread* io_ = nullptr;
    std::int64_t looked_ns_ = kLongAgoNs;
    bool wants_colours_ = false;
};

}  // namespace echion::agent
