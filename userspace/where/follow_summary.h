#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/text_report.h"
#include "where/follow_model.h"

namespace echion::where {

/// What ended the following of a process.
enum class FollowEnd { kTime, kSignal, kProcess };

/// For each thread its distinct stacks with their share of its time, most time first.
std::string make_text_summary(const FollowModel& model, const report::ReportHeader& header,
                              const report::Palette& palette);

/// The same as one JSON document, without leaving anything out; docs/where.md describes it.
std::string make_json_summary(const FollowModel& model, const report::ReportHeader& header,
                              std::uint64_t interval_ns, FollowEnd end);

/// A thread's stacks that took any time, most time first; the time of all.
struct RankedStacks {
    std::vector<const FollowStack*> stacks;
    std::int64_t total_ns = 0;
};
RankedStacks rank_stacks(const FollowThread& thread);

/// Percent, 0 of nothing.
inline double percent(std::int64_t part, std::int64_t whole) {
    return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

}  // namespace echion::where
