#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "base/error.h"
#include "code/code_sink.h"
#include "cpython/runtime_view.h"
#include "stream/encoder.h"
#include "stream/ring.h"

namespace echion::sampling {

/// Is told that a batch of the stream found no room: all that was in it has to be written again.
class VoidBatchListener {
  public:
    virtual void on_void_batch() = 0;

  protected:
    ~VoidBatchListener() = default;
};

/// The stream's ticks: when each began, which time it accounts for, and the batches that carry it.
/// Asks nothing of the target. Sampler thread only.
class TickStream : public code::CodeSink {
  public:
    explicit TickStream(VoidBatchListener& listener) : listener_(listener) {}

    /// Begins the stream at `start_ns`, from which on nobody has looked. All times are
    /// CLOCK_MONOTONIC.
    void start(stream::RingProducer& ring, std::int64_t start_ns, std::int64_t interval_ns,
               bool cpu_mode, const cpython::Version& version);
    void set_interval(std::int64_t interval_ns) { interval_ns_ = interval_ns; }

    /// The sampler looks at the threads from `now_ns` on.
    void begin_look(std::int64_t now_ns) { now_ns_ = now_ns; }
    /// Begins a tick of the stream, which accounts for the time since the one before.
    void begin(std::int64_t at_ns);
    /// Goes on in a tick of its own where the one that has begun is so old that others had the CPU
    /// meanwhile: what is seen from now on did not have to be so when it began.
    void continue_at(std::int64_t at_ns);
    /// Ends the tick that is open and begins another, 1 ns later: CPU time goes to the stack that
    /// its thread has at the end of a tick, and what follows may be another one.
    void end_part();
    void define(const code::CodeDefinition& code) override;
    /// Ends the open batch. One that had no room is void, and so is all that was in it.
    void commit();
    /// Goes on in another batch when the open one has grown long.
    void split();
    /// Ends the look.
    void finish();

    [[nodiscard]] stream::Encoder& encoder() { return *encoder_; }
    [[nodiscard]] std::int64_t now_ns() const { return now_ns_; }
    /// When the tick of the stream that is open began.
    [[nodiscard]] std::int64_t tick_ns() const { return tick_ns_; }
    /// What is written now is given the time from here on.
    [[nodiscard]] std::int64_t part_since_ns() const { return part_since_ns_; }
    /// When the last look began.
    [[nodiscard]] std::int64_t last_look_ns() const { return last_look_ns_; }
    /// Whether there has been a look.
    [[nodiscard]] bool has_looked() const { return has_looked_; }
    [[nodiscard]] std::int64_t interval_ns() const { return interval_ns_; }
    /// More time between two looks is time that nobody looked at.
    [[nodiscard]] std::int64_t longest_gap_ns() const {
        return stream::longest_gap_ns(interval_ns_);
    }

  private:
    VoidBatchListener& listener_;
    std::optional<stream::Encoder> encoder_;
    std::int64_t interval_ns_ = 0;
    bool cpu_mode_ = false;
    bool has_looked_ = false;
    std::int64_t now_ns_ = 0;
    std::int64_t tick_ns_ = 0;
    std::int64_t part_since_ns_ = 0;
    std::int64_t last_look_ns_ = 0;
};

}  // namespace echion::sampling
