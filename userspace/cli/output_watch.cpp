#include "cli/output_watch.h"

#include <utility>

namespace echion::cli {

void OutputWatch::look(const OutputProgress& progress, bool is_sampling, std::int64_t now_ns) {
    if (behind_since_ns_ != 0) {
        stalled_ns_ += static_cast<std::uint64_t>(now_ns - behind_since_ns_);
    }
    behind_since_ns_ = progress.is_behind && is_sampling ? now_ns : 0;
    // What has come since the last look has not waited yet, however long ago that look was.
    const bool has_waited =
        std::exchange(waiting_bytes_, progress.waiting_bytes) != 0 && progress.waiting_bytes != 0;
    if (std::exchange(written_bytes_, progress.written_bytes) != progress.written_bytes ||
        !has_waited) {
        taken_ns_ = now_ns;
    }
}

bool OutputWatch::hurry(std::int64_t now_ns) {
    if (hurried_ns_ == 0) {
        hurried_ns_ = now_ns;
        return false;
    }
    if (std::exchange(is_forced_, true)) {
        return false;
    }
    hurried_ns_ = now_ns;
    return true;
}

bool OutputWatch::is_given_up(std::int64_t now_ns) const {
    const bool had_last_chance = hurried_ns_ != 0 && now_ns - hurried_ns_ >= kLastChanceNs;
    return had_last_chance && (is_stuck(now_ns) || is_forced_);
}

}  // namespace echion::cli
