#include "where/follow_view.h"

#include <fmt/format.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "console/message.h"
#include "where/follow_summary.h"

namespace echion::where {
namespace {

constexpr int kLeastColumns = 20;
constexpr int kLeastRows = 4;
constexpr double kLeastShown = 0.05;  // percent, with one digit behind the point
constexpr std::string_view kArrow = " › ";

TerminalSize measure(int fd) {
    winsize size{};
    TerminalSize result;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
        result = {size.ws_col, size.ws_row};
    }
    return result;
}

std::string printable(std::string_view text) {
    std::string result;
    std::array<char, 512> buffer;
    const auto keep = [&result](std::string_view part) { result += part; };
    {
        report::TextSink sink(buffer, keep);
        sink.put_printable(text);
    }
    return result;
}

int columns_of(std::string_view text) {
    int columns = 0;
    while (!text.empty()) {
        columns += report::column_width(take_code_point(text).value);
    }
    return columns;
}

/// Puts one line together, and cuts it at the terminal's edge.
class LineBuilder {
  public:
    explicit LineBuilder(int width) : width_(width) {}

    [[nodiscard]] int room() const { return width_ - line_.columns; }

    /// Adds text that has no escape sequences in it.
    LineBuilder& put(std::string_view text, std::string_view colour = {},
                     std::string_view plain = {}) {
        line_.text += colour;
        while (!text.empty()) {
            const std::string_view before = text;
            const int columns = report::column_width(take_code_point(text).value);
            if (line_.columns + columns > width_) {
                line_.columns = width_;  // no later, narrower character either
                break;
            }
            line_.text += before.substr(0, before.size() - text.size());
            line_.columns += columns;
        }
        line_.text += plain;
        return *this;
    }
    [[nodiscard]] ViewLine take() { return std::move(line_); }

  private:
    int width_;
    ViewLine line_;
};

class Drawing {
  public:
    Drawing(const FollowModel& model, const report::Palette& palette, TerminalSize size)
        : model_(model),
          palette_(palette),
          width_(std::max(size.columns, kLeastColumns) - 1),
          // One row is the cursor's.
          rows_(static_cast<std::size_t>(std::max(size.rows, kLeastRows) - 1)) {}

    std::vector<ViewLine> draw(const report::ReportHeader& header, std::int64_t left_ns);

  private:
    struct TopStack {
        const FollowThread* thread;
        const FollowStack* stack;
    };
    void draw_threads(std::size_t rows);
    void draw_thread(const FollowThread& thread, std::size_t frames, bool has_place);
    void draw_top(const std::vector<TopStack>& top);
    [[nodiscard]] std::vector<TopStack> find_top(std::size_t limit) const;
    void put_path(LineBuilder& line, const FollowStack& stack) const;
    [[nodiscard]] std::string place_of(FrameId id) const;

    const FollowModel& model_;
    const report::Palette& palette_;
    int width_;
    std::size_t rows_;
    std::vector<ViewLine> lines_;
};

std::string Drawing::place_of(FrameId id) const {
    const FollowFrame& frame = model_.frame(id);
    return fmt::format("({}:{})", printable(frame.file), frame.line);
}

/// The end of a stack that fits, most recent call last, with its place.
void Drawing::put_path(LineBuilder& line, const FollowStack& stack) const {
    if (stack.frames.empty()) {
        line.put("(no Python frames)");
        return;
    }
    const FollowFrame& leaf = model_.frame(stack.frames.back());
    const std::string_view file = leaf.file;
    const std::string place =
        fmt::format(" ({}:{})", printable(file.substr(file.rfind('/') + 1)), leaf.line);
    std::string path = printable(leaf.function);
    int room = line.room() - columns_of(path) - columns_of(place);
    std::size_t next = stack.frames.size() - 1;
    for (; next > 0; --next) {
        const std::string name = printable(model_.frame(stack.frames[next - 1]).function);
        const int needed = columns_of(name) + columns_of(kArrow);
        if (needed + (next > 1 ? columns_of(kArrow) + 1 : 0) > room) {
            break;
        }
        path = name + std::string(kArrow) + path;
        room -= needed;
    }
    if (next > 0) {
        path = "…" + std::string(kArrow) + path;
    }
    line.put(path, palette_.function, palette_.plain).put(place, palette_.file, palette_.plain);
}

void Drawing::draw_thread(const FollowThread& thread, std::size_t frames, bool has_place) {
    LineBuilder line(width_);
    line.put("🧵 ").put(printable(thread.name), palette_.thread, palette_.plain);
    line.put(
        fmt::format(" {:5.1f} % CPU", percent(thread.recent.on_cpu_ns, thread.recent.seen_ns)));
    // What was waited before is counted when the wait ends.
    const double runnable =
        std::min(percent(thread.recent.runnable_ns, thread.recent.seen_ns), 100.0);
    if (runnable >= kLeastShown) {
        line.put(fmt::format(", {:.1f} % runnable", runnable));
    }
    // Of a thread that is on a CPU or runnable the shares say more.
    const char state = thread.captured.kernel_state;
    const std::string_view name = state == 'R' ? "" : report::name_state(state);
    line.put(name.empty() ? "" : ", ").put(name);
    if (thread.captured.gil_role == capture::GilRole::kHolds) {
        line.put(", holding the GIL");
    } else if (thread.captured.gil_role == capture::GilRole::kWaits) {
        line.put(", waiting for the GIL");
    }
    const FollowStack& stack = thread.stacks[thread.current];
    if (has_place) {
        line.put("  ");
        put_path(line, stack);
    }
    lines_.push_back(line.take());
    const std::size_t count = stack.frames.size();
    const bool is_cut = count > frames;
    for (std::size_t i = is_cut ? count - frames : 0; i < count; ++i) {
        LineBuilder row(width_);
        row.put(is_cut && i == count - frames ? "  … " : "    ");
        row.put(printable(model_.frame(stack.frames[i]).function), palette_.function,
                palette_.plain);
        row.put(" ").put(place_of(stack.frames[i]), palette_.file, palette_.plain);
        lines_.push_back(row.take());
    }
}

void Drawing::draw_threads(std::size_t rows) {
    std::vector<const FollowThread*> threads;
    std::size_t longest = 0;
    for (const FollowThread& thread : model_.threads()) {
        if (thread.is_present) {
            threads.push_back(&thread);
            longest = std::max(longest, thread.stacks[thread.current].frames.size());
        }
    }
    const auto needed = [&](std::size_t frames) {
        std::size_t sum = 0;
        for (const FollowThread* thread : threads) {
            sum += 1 + std::min(frames, thread->stacks[thread->current].frames.size());
        }
        return sum;
    };
    // As many frames of each as fit, the innermost ones.
    std::size_t frames = longest;
    while (frames > 0 && needed(frames) > rows) {
        --frames;
    }
    std::size_t shown = threads.size();
    if (shown > rows) {
        // The busiest first, then as they came.
        std::stable_sort(threads.begin(), threads.end(), [](const auto* a, const auto* b) {
            return a->recent.on_cpu_ns > b->recent.on_cpu_ns;
        });
        shown = rows > 0 ? rows - 1 : 0;
    }
    for (std::size_t i = 0; i < shown; ++i) {
        draw_thread(*threads[i], frames, frames == 0);
    }
    if (shown < threads.size() && rows > 0) {
        lines_.push_back(LineBuilder(width_)
                             .put(fmt::format("   {} more threads", threads.size() - shown))
                             .take());
    }
}

std::vector<Drawing::TopStack> Drawing::find_top(std::size_t limit) const {
    std::vector<TopStack> all;
    for (const FollowThread& thread : model_.threads()) {
        for (const FollowStack& stack : thread.stacks) {
            if (stack.time_ns > 0) {
                all.push_back({&thread, &stack});
            }
        }
    }
    const std::size_t count = std::min(limit, all.size());
    std::partial_sort(
        all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count), all.end(),
        [](const TopStack& a, const TopStack& b) { return a.stack->time_ns > b.stack->time_ns; });
    all.resize(count);
    return all;
}

void Drawing::draw_top(const std::vector<TopStack>& top) {
    lines_.push_back({});
    lines_.push_back(LineBuilder(width_)
                         .put(model_.counts_cpu() ? "Most CPU time so far" : "Most time so far",
                              palette_.title, palette_.plain)
                         .take());
    for (const TopStack& one : top) {
        LineBuilder line(width_);
        line.put(fmt::format("{:6.1f} s {:5.1f} % ", static_cast<double>(one.stack->time_ns) / 1e9,
                             percent(one.stack->time_ns, one.thread->spent.seen_ns)));
        line.put(printable(one.thread->name), palette_.thread, palette_.plain).put("  ");
        put_path(line, *one.stack);
        lines_.push_back(line.take());
    }
}

std::vector<ViewLine> Drawing::draw(const report::ReportHeader& header, std::int64_t left_ns) {
    const std::string title = fmt::format(
        "Process {} ({}), Python {}.{}.{}: {:.1f} s, {:.1f} s left, {} samples", header.pid,
        printable(header.command), header.version.major, header.version.minor, header.version.micro,
        static_cast<double>(model_.elapsed_ns()) / 1e9,
        static_cast<double>(std::max<std::int64_t>(left_ns, 0)) / 1e9, model_.samples());
    lines_.push_back(LineBuilder(width_).put(title, palette_.title, palette_.plain).take());
    std::size_t left = rows_ - 1;
    // A third for the stacks that took most time, where there is room for some and their title.
    const std::vector<TopStack> top = find_top(left / 3 > 2 ? left / 3 - 2 : 0);
    const std::size_t top_rows = top.empty() ? 0 : top.size() + 2;
    draw_threads(left - top_rows);
    if (!top.empty()) {
        draw_top(top);
    }
    return std::move(lines_);
}

}  // namespace

std::vector<ViewLine> draw_view(const FollowModel& model, const report::ReportHeader& header,
                                std::int64_t left_ns, TerminalSize size,
                                const report::Palette& palette) {
    return Drawing(model, palette, size).draw(header, left_ns);
}

std::string FollowView::rewind(TerminalSize size) const {
    // Lines that were shown on a wider terminal take up several rows of a narrower one.
    int rows = 0;
    for (const int columns : shown_columns_) {
        rows += std::max(1, (columns + size.columns - 1) / size.columns);
    }
    rows = std::min(rows, size.rows - 1);
    return rows > 0 ? fmt::format("\r\x1b[{}A\x1b[J", rows) : "\r\x1b[J";
}

void FollowView::show(const FollowModel& model, const report::ReportHeader& header,
                      std::int64_t left_ns) {
    const TerminalSize size = measure(fd_);
    std::string text = rewind(size);
    shown_columns_.clear();
    for (const ViewLine& line : draw_view(model, header, left_ns, size, palette_)) {
        text += line.text;
        text += "\r\n";
        shown_columns_.push_back(line.columns);
    }
    write_text(fd_, text);
}

void FollowView::clear() {
    if (!shown_columns_.empty()) {
        write_text(fd_, rewind(measure(fd_)));
        shown_columns_.clear();
    }
}

}  // namespace echion::where
