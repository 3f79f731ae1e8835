#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "report/text_report.h"
#include "where/follow_model.h"

namespace echion::where {

struct TerminalSize {
    int columns = 80;
    int rows = 24;
};

/// One line of a view: text with escape sequences, and the columns that it takes up.
struct ViewLine {
    std::string text;
    int columns = 0;
};

/// Draws where the threads of a process are now and have been most, fitted to a terminal's size: no
/// line wraps, and there is one row left for the cursor. Pure.
std::vector<ViewLine> draw_view(const FollowModel& model, const report::ReportHeader& header,
                                std::int64_t left_ns, TerminalSize size,
                                const report::Palette& palette);

/// A view on a terminal that is rewritten in place, without taking the whole screen: what was on it
/// before stays above.
class FollowView {
  public:
    FollowView(int fd, const report::Palette& palette) : fd_(fd), palette_(palette) {}

    /// Draws the view over the one before. `left_ns`: until the end.
    void show(const FollowModel& model, const report::ReportHeader& header, std::int64_t left_ns);
    /// Takes the view off the terminal.
    void clear();

  private:
    [[nodiscard]] std::string rewind(TerminalSize size) const;

    int fd_;
    report::Palette palette_;
    std::vector<int> shown_columns_;  // of each line on the terminal
};

}  // namespace echion::where
