#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/profile_builder.h"
#include "model/stack_sink.h"
#include "output/output_file.h"

namespace echion::output {

/// Bounds on what processes can make a writer hold and write, whatever they claim. A record can
/// come from a few bytes of a stream: all but the leaf may be as before.
struct WriterLimits {
    /// Austin's text: a recursion of 100,000 frames makes a line of some 10 MB. Above this the leaf
    /// side is cut. The frames of other formats are numbers, which --max-frames bounds.
    std::size_t line_bytes = std::size_t{32} << 20;
    /// Austin's text: of the current lines of all threads of one process.
    std::size_t lines_bytes = std::size_t{128} << 20;
    /// Of the file in all, header included, footer not. Records that come later are counted only.
    std::uint64_t output_bytes = ~std::uint64_t{0};
};

/// What formats have places of their own for.
struct ProfileDescription {
    model::Metric metric = model::Metric::kWallTime;
    std::uint64_t begun_unix_ns = 0;  ///< CLOCK_REALTIME
};

/// Writes a profile in one format: metadata, the samples of any number of processes, and figures
/// about them at the end. A *record* is a stack with a time: a line of Austin's text.
///
///     add_header() …                     metadata, until the first record
///     add_process() → StackSink …        samples
///     flush()                            about once a second
///     add_footer() …  finish()           figures; nothing comes after them
///
/// What is written so far can be read, or recovered (docs/formats.md), whenever OutputFile has
/// written a piece of it: each writer tells the file where its records end. Memory is bounded, and
/// what is left out for a bound is counted. One thread.
class ProfileWriter {
  public:
    ProfileWriter(const ProfileWriter&) = delete;
    ProfileWriter& operator=(const ProfileWriter&) = delete;
    virtual ~ProfileWriter() = default;

    /// Adds a key to the header. Ignored once the header has been written, which is before the
    /// first record, and for a key that is there already.
    void add_header(std::string_view key, std::string_view value);
    /// Adds a key, or changes its value. Ignored once the header has been written.
    void set_header(std::string_view key, std::string_view value);
    /// The time between samples. Ignored once the header has been written.
    void set_interval(std::uint64_t interval_ns);
    /// Adds a figure to the end. After the last sample.
    void add_footer(std::string_view key, std::string_view value);

    /// The receiver of one process's samples. All of them are written, or counted as left out, when
    /// its threads have ended and it is destroyed. It must not outlive the writer.
    virtual std::unique_ptr<model::StackSink> add_process(std::int64_t pid) = 0;
    /// Appends to the file what only this object holds.
    virtual void flush() {}
    /// The end, behind the last figure. Once.
    virtual void finish(std::uint64_t /*duration_ns*/) {}

    [[nodiscard]] std::uint64_t records() const { return records_; }
    /// Whether the limit on the output was reached; how many records were left out for that, and
    /// the sum of their metrics.
    [[nodiscard]] bool is_full() const { return records_cut_ != 0; }
    [[nodiscard]] std::uint64_t records_cut() const { return records_cut_; }
    [[nodiscard]] std::uint64_t value_cut() const { return value_cut_; }
    /// Records that were written without some of their leaf side.
    [[nodiscard]] std::uint64_t records_shortened() const { return records_shortened_; }

  protected:
    /// Keys and values.
    using Metadata = std::vector<std::pair<std::string, std::string>>;

    ProfileWriter(OutputFile& file, const WriterLimits& limits) : file_(file), limits_(limits) {}

    /// Called once, in front of all records and figures.
    virtual void write_header(const Metadata& header) = 0;
    virtual void write_footer(std::string_view key, std::string_view value) = 0;

    void end_header();
    /// Whether so many bytes may be appended to the file.
    [[nodiscard]] bool fits(std::size_t bytes) const;
    /// The same of a record, which is counted if it may not: the first that has no room is the
    /// last, so that the profile goes up to one moment, and is not one of the short records.
    bool has_room(std::size_t bytes, std::int64_t value);
    /// Counts a record that has no room.
    void cut(std::int64_t value);
    void count_record() { ++records_; }
    void count_shortened() { ++records_shortened_; }

    [[nodiscard]] OutputFile& file() { return file_; }
    [[nodiscard]] const WriterLimits& limits() const { return limits_; }
    [[nodiscard]] std::uint64_t interval_ns() const { return interval_ns_; }

  private:
    OutputFile& file_;
    WriterLimits limits_;
    Metadata header_;
    std::uint64_t interval_ns_ = 0;
    std::uint64_t records_ = 0;
    std::uint64_t records_cut_ = 0;
    std::uint64_t value_cut_ = 0;
    std::uint64_t records_shortened_ = 0;
    bool header_ended_ = false;
};

}  // namespace echion::output
