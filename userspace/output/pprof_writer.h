#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/stack_sink.h"
#include "output/gzip_stream.h"
#include "output/output_file.h"
#include "output/profile_writer.h"

namespace echion::output {

/// Writes pprof's format: one protobuf message `Profile`, gzip-compressed
/// (github.com/google/pprof, proto/profile.proto).
///
/// The fields of a message may come in any order, and repeated fields add up. So the message is
/// written as the run goes, in pieces that end between two fields:
///
///     string_table 0…N, sample_type, period, comment …     the header
///     string_table, function, location …                   when they first occur
///     sample …                                             once a second
///     string_table, comment …, duration_nanos              figures
///
/// What is unpacked up to any flush is a whole message.
///
/// A stack's time is added up, and written again only once it has grown by a ninth: readers add up
/// equal samples. `INVALID`, `TRUNCATED`, `MISSED`, `GC` and labels are frames without a file, as
/// in Austin's text. Names are those of Austin's text, too.
class PprofWriter final : public ProfileWriter {
  public:
    PprofWriter(OutputFile& file, const ProfileDescription& description,
                const WriterLimits& limits = {});

    std::unique_ptr<model::StackSink> add_process(std::int64_t pid) override;
    void flush() override { stream_.flush(); }
    void finish(std::uint64_t duration_ns) override;

  private:
    class Process;  // in pprof_process.cpp

    /// The first entries of the string table. The message's first one is to be empty.
    enum FixedString : std::uint64_t {
        kEmpty,
        kMetric,
        kNanoseconds,
        kPid,
        kThread,
        kTid,
        kInterpreter,
        kMark,
        kFixedStrings
    };

    void write_header(const Metadata& header) override;
    void write_footer(std::string_view key, std::string_view value) override;
    void write_comment(std::string_view comment);
    /// The header's comments. Their strings come behind those of definitions, which have their
    /// indices already.
    void write_header_comments();

    /// These define what samples refer to, in front of the next sample. They return the index or
    /// id.
    std::uint64_t define_string(std::string_view text);
    std::uint64_t define_function(std::uint64_t name, std::uint64_t file, std::uint32_t first_line);
    std::uint64_t define_location(std::uint64_t function, std::uint32_t line);
    /// Writes a sample, given without its value, behind all definitions; or counts it as cut.
    void write_sample(std::string_view sample, std::int64_t value_us);
    /// False, with some of them written, if the output has no room for all.
    bool write_definitions();
    void drop_definitions();
    /// In front of figures, whose strings come behind those of definitions.
    void settle_definitions();
    /// Whether a field has room, by the most that it can take when it is compressed.
    bool finds_room(std::size_t plain_bytes);

    ProfileDescription description_;
    GzipStream stream_;
    std::string definitions_;                   // that have not been written yet
    std::vector<std::size_t> definition_ends_;  // of each of their fields
    std::string scratch_;
    std::vector<std::string> header_comments_;  // that have not been written yet
    std::size_t header_comments_bytes_ = 0;
    std::uint64_t next_string_;
    std::uint64_t strings_written_;  // without those in definitions_
    std::uint64_t next_function_ = 1;
    std::uint64_t next_location_ = 1;
    std::uint64_t plain_bytes_ = 0;  // of all samples and definitions
};

}  // namespace echion::output
