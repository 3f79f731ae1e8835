#include "output/pprof_writer.h"

#include <algorithm>
#include <limits>
#include <protozero/pbf_writer.hpp>
#include <utility>
#include <vector>

#include "output/spare_room.h"
#include "output/text.h"

namespace echion::output {
namespace {

using protozero::pbf_writer;

// Numbers of the fields in profile.proto.
namespace profile {
enum : protozero::pbf_tag_type {
    kSampleType = 1,
    kSample = 2,
    kLocation = 4,
    kFunction = 5,
    kStringTable = 6,
    kTimeNanos = 9,
    kDurationNanos = 10,
    kPeriodType = 11,
    kPeriod = 12,
    kComment = 13,
    kDefaultSampleType = 14,
};
}  // namespace profile
namespace value_type {
enum : protozero::pbf_tag_type { kType = 1, kUnit = 2 };
}  // namespace value_type
namespace sample_fields {
enum : protozero::pbf_tag_type { kValue = 2 };
}  // namespace sample_fields
namespace location_fields {
enum : protozero::pbf_tag_type { kId = 1, kLine = 4 };
}  // namespace location_fields
namespace line_fields {
enum : protozero::pbf_tag_type { kFunctionId = 1, kLine = 2 };
}  // namespace line_fields
namespace function_fields {
enum : protozero::pbf_tag_type {
    kId = 1,
    kName = 2,
    kSystemName = 3,
    kFilename = 4,
    kStartLine = 5
};
}  // namespace function_fields

/// What each entry of the string table begins with: its field's number, and that it has a length.
constexpr char kStringTag = (profile::kStringTable << 3) | 2;

constexpr std::int64_t kNanosPerMicro = 1000;
constexpr std::int64_t kMostNanos = std::numeric_limits<std::int64_t>::max();

/// Definitions are not kept for the next sample above this.
constexpr std::size_t kMaxDefinitionsBytes = std::size_t{1} << 20;
/// Of a sample beside what it is given as: its value, its length, and their tags.
constexpr std::size_t kSampleFrameBytes = 32;

std::string make_comment(std::string_view key, std::string_view value) {
    std::string comment;
    append_name(comment, key);
    comment += ": ";
    append_file_name(comment, value);
    return comment;
}

}  // namespace

PprofWriter::PprofWriter(OutputFile& file, const ProfileDescription& description,
                         const WriterLimits& limits)
    : ProfileWriter(file, limits),
      description_(description),
      stream_(file),
      next_string_(kFixedStrings),
      strings_written_(kFixedStrings) {
    file.use_marks();
}

void PprofWriter::write_header(const Metadata& header) {
    const bool is_cpu = description_.metric == model::Metric::kCpuTime;
    const std::string_view fixed[] = {
        "", is_cpu ? "cpu" : "wall", "nanoseconds", "pid", "thread", "tid", "interpreter", "mark"};
    static_assert(std::size(fixed) == kFixedStrings);
    std::string text;
    pbf_writer message(text);
    for (const std::string_view one : fixed) {
        message.add_string(profile::kStringTable, one.data(), one.size());
    }
    for (const auto field : {profile::kSampleType, profile::kPeriodType}) {
        pbf_writer type(message, field);
        type.add_int64(value_type::kType, kMetric);
        type.add_int64(value_type::kUnit, kNanoseconds);
    }
    message.add_int64(profile::kPeriod, static_cast<std::int64_t>(interval_ns()));
    message.add_int64(profile::kDefaultSampleType, kMetric);
    message.add_int64(profile::kTimeNanos, static_cast<std::int64_t>(description_.begun_unix_ns));
    stream_.append(text);
    for (const auto& [key, value] : header) {
        header_comments_.push_back(make_comment(key, value));
        header_comments_bytes_ += header_comments_.back().size() + kSampleFrameBytes;
    }
}

void PprofWriter::write_header_comments() {
    for (const std::string& comment : std::exchange(header_comments_, {})) {
        write_comment(comment);
    }
    header_comments_bytes_ = 0;
}

void PprofWriter::write_footer(std::string_view key, std::string_view value) {
    settle_definitions();
    write_comment(make_comment(key, value));
}

void PprofWriter::write_comment(std::string_view comment) {
    std::string text;
    pbf_writer message(text);
    message.add_string(profile::kStringTable, comment.data(), comment.size());
    message.add_int64(profile::kComment, static_cast<std::int64_t>(next_string_));
    strings_written_ = ++next_string_;
    stream_.append(text);
}

void PprofWriter::finish(std::uint64_t duration_ns) {
    end_header();
    settle_definitions();
    std::string text;
    pbf_writer message(text);
    message.add_int64(
        profile::kDurationNanos,
        static_cast<std::int64_t>(std::min(duration_ns, static_cast<std::uint64_t>(kMostNanos))));
    stream_.append(text);
    stream_.finish();
}

std::uint64_t PprofWriter::define_string(std::string_view text) {
    if (definitions_.size() > kMaxDefinitionsBytes && !write_definitions()) {
        drop_definitions();
        cut(0);
    }
    if (is_full()) {
        return kEmpty;  // nothing comes that needs it
    }
    pbf_writer(definitions_).add_string(profile::kStringTable, text.data(), text.size());
    definition_ends_.push_back(definitions_.size());
    return next_string_++;
}

std::uint64_t PprofWriter::define_function(std::uint64_t name, std::uint64_t file,
                                           std::uint32_t first_line) {
    {
        pbf_writer message(definitions_);
        pbf_writer function(message, profile::kFunction);
        function.add_uint64(function_fields::kId, next_function_);
        function.add_int64(function_fields::kName, static_cast<std::int64_t>(name));
        function.add_int64(function_fields::kSystemName, static_cast<std::int64_t>(name));
        function.add_int64(function_fields::kFilename, static_cast<std::int64_t>(file));
        function.add_int64(function_fields::kStartLine, first_line);
    }
    definition_ends_.push_back(definitions_.size());
    return next_function_++;
}

std::uint64_t PprofWriter::define_location(std::uint64_t function, std::uint32_t line) {
    {
        pbf_writer message(definitions_);
        pbf_writer location(message, profile::kLocation);
        location.add_uint64(location_fields::kId, next_location_);
        pbf_writer place(location, location_fields::kLine);
        place.add_uint64(line_fields::kFunctionId, function);
        place.add_int64(line_fields::kLine, line);
    }
    definition_ends_.push_back(definitions_.size());
    return next_location_++;
}

bool PprofWriter::finds_room(std::size_t plain_bytes) {
    plain_bytes += header_comments_bytes_;
    if (!is_full() && !fits(stream_.bound(plain_bytes))) {
        stream_.flush();  // what has been compressed is counted by its true size then
    }
    return fits(stream_.bound(plain_bytes));
}

bool PprofWriter::write_definitions() {
    end_header();
    std::size_t from = 0;
    for (const std::size_t end : definition_ends_) {
        const std::string_view field = std::string_view(definitions_).substr(from, end - from);
        if (!finds_room(field.size())) {
            return false;
        }
        stream_.append(field);
        plain_bytes_ += field.size();
        strings_written_ += field.front() == kStringTag ? 1 : 0;
        from = end;
    }
    definitions_.clear();
    give_back(definitions_);
    definition_ends_.clear();
    give_back(definition_ends_);
    write_header_comments();
    return true;
}

void PprofWriter::settle_definitions() {
    if (!write_definitions()) {
        drop_definitions();
    }
    write_header_comments();
}

/// The indices of strings go on from the last one that was written.
void PprofWriter::drop_definitions() {
    definitions_ = {};
    definition_ends_ = {};
    next_string_ = strings_written_;
}

void PprofWriter::write_sample(std::string_view sample, std::int64_t value_us) {
    if (!write_definitions() || !finds_room(sample.size() + kSampleFrameBytes)) {
        drop_definitions();
        cut(value_us);
        return;
    }
    const std::int64_t value_ns =
        value_us > kMostNanos / kNanosPerMicro ? kMostNanos : value_us * kNanosPerMicro;
    scratch_.assign(sample);
    pbf_writer(scratch_).add_packed_int64(sample_fields::kValue, &value_ns, &value_ns + 1);
    std::string field;
    pbf_writer(field).add_message(profile::kSample, scratch_);
    plain_bytes_ += field.size();
    stream_.append(field);
    count_record();
}

}  // namespace echion::output
