#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "model/profile_events.h"

namespace echion::model {

/// A frame as a profile shows it: a line of a code object. Two frames with the same id are the
/// same; an id is never used for another frame. The code's texts are valid during the call only.
struct Frame {
    std::uint64_t id = 0;
    CodeView code;
    std::uint32_t line = 0;  ///< 0 when there is none.
};

/// The moment up to which a sample counts: CLOCK_MONOTONIC in ns, as the target claims, within one
/// tick. None, where only the sum is known.
using SampleTime = std::optional<std::uint64_t>;

/// Receives the finished samples of one process: what an output format implements.
///
/// A thread's stack is told as its changes; a sample then belongs to the stack as it stands.
class StackSink {
  public:
    virtual ~StackSink() = default;

    /// Comes once, in front of everything else.
    virtual void process(PythonVersion version) = 0;
    /// A thread begins, with an empty stack, or is renamed (its stack stays). No name: it is not
    /// known (yet), and the number has to serve.
    virtual void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                        std::uint32_t native_thread_id, std::string_view name) = 0;
    virtual void thread_ended(std::uint32_t thread_id) = 0;
    /// The stack is now `kept` root-side frames of the previous one and `frames`, root first.
    virtual void stack(std::uint32_t thread_id, StackMarks marks, std::size_t kept,
                       std::span<const Frame> frames) = 0;
    /// The thread spent `value` (µs; in memory mode signed bytes; never 0) with its stack.
    virtual void sample(std::uint32_t thread_id, std::int64_t value, SampleTime until) = 0;

    /// Of the thread's time, `value` is known of no stack: nobody looked for so long.
    virtual void missed(std::uint32_t thread_id, std::int64_t value, SampleTime until) = 0;

    /// About once a second: what waits in it for something that may never come goes on.
    virtual void checkpoint() {}

    /// What it holds for this process, about.
    [[nodiscard]] virtual std::size_t memory_bytes() const { return 0; }
    /// What it has written of this process.
    [[nodiscard]] virtual std::uint64_t output_bytes() const { return 0; }
};

}  // namespace echion::model
