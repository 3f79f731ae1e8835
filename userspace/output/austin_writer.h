#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/stack_sink.h"
#include "output/output_file.h"

namespace echion::output {

/// Bounds on what processes can make the writer hold and write, whatever they claim. A line of text
/// can come from a few bytes of a stream: all but the leaf may be as before.
struct WriterLimits {
    /// A recursion of 100,000 frames makes a line of some 10 MB. Above this the leaf side is cut.
    std::size_t line_bytes = std::size_t{32} << 20;
    /// Of the current lines of all threads of one process.
    std::size_t lines_bytes = std::size_t{128} << 20;
    /// Of the file in all, header included, footer not. Lines that come later are counted only.
    std::uint64_t output_bytes = ~std::uint64_t{0};
};

/// Writes Austin's collapsed text, in the form that austin-python 1.7 and 2.x, flamegraph.pl and
/// speedscope all read without a filter:
///
///     # mode: wall                     header: one line a key; a bare number is followed by a
///     # interval: 1000⎵                space, or flamegraph.pl and speedscope would take the line
///                                      for a stack
///     P42;T0:MainThread;app.py:<module>:3;app.py:work:7 1000
///     …                                one line a sample, root first, then the metric
///
///     # duration: 2000000⎵             footer
///
/// Frames that stand for no code: `;:<label>:0` a task, `;:GC:0` (last) the garbage collector,
/// `;:INVALID:0` and `;:TRUNCATED:0` (first) a stack that is not what it should be, `;:TRUNCATED:0`
/// (last) a line that got too long, `;:MISSED:0` (alone) time that nobody looked at. With a line's
/// number, as austin-python 1.7 drops a whole line that has a frame without one.
class AustinWriter {
  public:
    explicit AustinWriter(OutputFile& file, const WriterLimits& limits = {})
        : file_(file), limits_(limits) {}
    AustinWriter(const AustinWriter&) = delete;
    AustinWriter& operator=(const AustinWriter&) = delete;

    /// Adds a line to the header. Ignored once a sample has been written, and for a key that is
    /// there already.
    void add_header(std::string_view key, std::string_view value);
    /// Adds a line, or changes the one that has this key. Ignored once a sample has been written.
    void set_header(std::string_view key, std::string_view value);
    /// Adds a line to the footer. After the last sample.
    void add_footer(std::string_view key, std::string_view value);

    /// The receiver of one process's samples. It must not outlive the writer.
    std::unique_ptr<model::StackSink> add_process(std::int64_t pid);

    [[nodiscard]] std::uint64_t lines() const { return lines_; }
    /// Whether the limit on the output was reached; how many lines were left out for that, and the
    /// sum of their metrics.
    [[nodiscard]] bool is_full() const { return lines_cut_ != 0; }
    [[nodiscard]] std::uint64_t lines_cut() const { return lines_cut_; }
    [[nodiscard]] std::uint64_t value_cut() const { return value_cut_; }
    /// Lines that were written without some of their leaf side.
    [[nodiscard]] std::uint64_t lines_shortened() const { return lines_shortened_; }

  private:
    class Process;

    void end_header();
    /// Whether a line may be written; counts it if not.
    bool has_room(std::size_t bytes, std::int64_t value);
    void append_metadata(std::string& to, std::string_view key, std::string_view value);

    OutputFile& file_;
    WriterLimits limits_;
    std::vector<std::pair<std::string, std::string>> header_;  // keys and values
    std::string scratch_;
    std::uint64_t lines_ = 0;
    std::uint64_t lines_cut_ = 0;
    std::uint64_t value_cut_ = 0;
    std::uint64_t lines_shortened_ = 0;
    bool header_ended_ = false;
    bool footer_begun_ = false;
};

}  // namespace echion::output
