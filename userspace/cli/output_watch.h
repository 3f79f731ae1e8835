#pragma once

#include <cstdint>

#include "base/clock.h"

namespace echion::cli {

/// How far the writing of a profile has come: see Profile.
struct OutputProgress {
    bool is_behind = false;
    std::uint64_t waiting_bytes = 0;
    std::uint64_t written_bytes = 0;
};

/// Judges an output that does not take what is written: for how long samples were held up by it,
/// and when it is waited for no more. All times are CLOCK_MONOTONIC in ns.
class OutputWatch {
  public:
    /// An output that takes nothing for so long is stuck.
    static constexpr std::int64_t kPatienceNs = 2 * kNanosPerSecond;
    /// And so long after a user's signal it is waited for at the least; after the second one, in
    /// all.
    static constexpr std::int64_t kLastChanceNs = 200'000'000;

    /// To be called several times a second. `is_sampling`: rings wait for the output.
    void look(const OutputProgress& progress, bool is_sampling, std::int64_t now_ns);
    /// In place of look(), where there was nothing that the output could have taken.
    void restart(std::int64_t now_ns) { taken_ns_ = now_ns; }

    /// A user has asked for the end. True if it is for the second time, and so to be now.
    bool hurry(std::int64_t now_ns);
    [[nodiscard]] bool is_hurried() const { return hurried_ns_ != 0; }

    [[nodiscard]] bool is_stuck(std::int64_t now_ns) const {
        return now_ns - taken_ns_ >= kPatienceNs;
    }
    /// Whether to wait no more: a user wants the end, and the output takes nothing.
    [[nodiscard]] bool is_given_up(std::int64_t now_ns) const;
    /// Time that rings could not be emptied, as the output was behind.
    [[nodiscard]] std::uint64_t stalled_ns() const { return stalled_ns_; }

  private:
    std::int64_t behind_since_ns_ = 0;  // since the last look; 0: it keeps up
    std::uint64_t written_bytes_ = 0;
    std::uint64_t waiting_bytes_ = 0;
    std::int64_t taken_ns_ = 0;    // when the output last took something, or had all
    std::int64_t hurried_ns_ = 0;  // 0: nobody is in a hurry
    bool is_forced_ = false;
    std::uint64_t stalled_ns_ = 0;
};

}  // namespace echion::cli
