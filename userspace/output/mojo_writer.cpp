#include "output/mojo_writer.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "output/process_sink.h"
#include "output/spare_room.h"
#include "output/text.h"

namespace echion::output {
namespace {

using model::CodeKind;
using model::Frame;
using model::StackMarks;

constexpr std::int64_t kVersion = 3;

enum class Event : char {
    kMetadata = 1,
    kStack = 2,
    kFrame = 3,
    kFrameRef = 5,
    kGc = 7,
    kMetricTime = 9,
    kString = 11,
};

/// Strings that readers take for defined.
constexpr std::uint64_t kEmptyKey = 0;
constexpr std::uint64_t kUnknownKey = 1;
constexpr std::uint64_t kFirstKey = 2;

/// What is known to be defined is forgotten above this, and defined again.
constexpr std::size_t kMaxCachedBytes = std::size_t{64} << 20;
/// Of a node of a hash map: the node, its allocation, its share of the buckets.
constexpr std::size_t kMapNodeBytes = 48;

void append_event(std::string& to, Event event) { to += static_cast<char>(event); }

void append_number(std::string& to, std::uint64_t magnitude, bool is_negative) {
    std::uint64_t byte = (magnitude & 0x3F) | (is_negative ? 0x40 : 0);
    magnitude >>= 6;
    while (magnitude != 0) {
        to += static_cast<char>(byte | 0x80);
        byte = magnitude & 0x7F;
        magnitude >>= 7;
    }
    to += static_cast<char>(byte);
}

void append_number(std::string& to, std::uint64_t value) { append_number(to, value, false); }

void append_number(std::string& to, std::int64_t value) {
    const auto bits = static_cast<std::uint64_t>(value);
    append_number(to, value < 0 ? ~bits + 1 : bits, value < 0);
}

void append_string(std::string& to, std::uint64_t key, std::string_view text) {
    append_event(to, Event::kString);
    append_number(to, key);
    to += text;
    to += '\0';
}

void append_metadata(std::string& to, std::string_view key, std::string_view value) {
    append_event(to, Event::kMetadata);
    append_name(to, key);
    to += '\0';
    append_file_name(to, value);
    to += '\0';
}

}  // namespace

class MojoWriter::Process final : public ProcessSink<NumberedStack> {
  public:
    Process(MojoWriter& writer, std::int64_t pid) : writer_(writer), pid_(pid) {
        append_string(definitions_, kEmptyKey, "");
        append_string(definitions_, kUnknownKey, "<unknown>");
    }

    void process(model::PythonVersion version) override {
        writer_.add_header("python", format_version(version));
    }

    [[nodiscard]] std::size_t memory_bytes() const override {
        return ProcessSink::memory_bytes() + cached_bytes_ + definitions_.capacity();
    }
    [[nodiscard]] std::uint64_t output_bytes() const override { return output_bytes_; }

  private:
    std::string make_head(std::int64_t interpreter_id, std::uint32_t native_thread_id,
                          std::string_view name) override {
        std::string head;
        append_event(head, Event::kStack);
        append_number(head, pid_);
        append_number(head, interpreter_id);
        append_thread_name(head, native_thread_id, name);
        head += '\0';
        return head;
    }

    void change_stack(Thread& thread, StackMarks /*marks*/, std::size_t kept,
                      std::span<const Frame> frames) override {
        NumberedStack& keys = thread.stack;
        keys.resize(std::min(kept, keys.size()));
        for (const Frame& frame : frames) {
            keys.push_back(find_frame(frame));
        }
        give_back(keys);
    }

    std::string make_tail(const Thread& thread) override {
        std::string tail;
        if (thread.marks.truncated) {
            append_ref(tail, find_mark("TRUNCATED"));
        }
        if (thread.marks.invalid) {
            append_ref(tail, find_mark("INVALID"));
        }
        for (const std::uint64_t key : thread.stack) {
            append_ref(tail, key);
        }
        if (thread.marks.in_gc) {
            append_ref(tail, find_mark("GC"));
            append_event(tail, Event::kGc);
        }
        return tail;
    }

    std::string make_missed_tail() override {
        std::string tail;
        append_ref(tail, find_mark("MISSED"));
        return tail;
    }

    void put_record(const Thread& thread, std::string_view tail, std::int64_t value) override {
        writer_.end_header();
        std::string metric;
        append_event(metric, Event::kMetricTime);
        append_number(metric, value);
        const std::size_t bytes =
            thread.head.size() + definitions_.size() + tail.size() + metric.size();
        if (writer_.has_room(bytes, value)) {
            output_bytes_ += bytes;
            writer_.file().append(thread.head);
            writer_.file().append(definitions_);
            writer_.file().append(tail);
            writer_.file().append(metric);
            writer_.file().mark_end();
            writer_.count_record();
        }
        definitions_.clear();
        give_back(definitions_);
    }

    static void append_ref(std::string& to, std::uint64_t key) {
        append_event(to, Event::kFrameRef);
        append_number(to, key);
    }

    std::uint64_t find_frame(const Frame& frame) {
        if (const auto found = frames_.find(frame.id); found != frames_.end()) {
            return found->second;
        }
        forget_if_large();
        std::string file;
        if (frame.code.kind != CodeKind::kLabel) {
            append_file_name(file, frame.code.file_name);
        }
        std::string function;
        append_function_name(function, frame.code);
        const std::uint64_t key = define_frame(file, function, frame.line);
        frames_.emplace(frame.id, key);
        cached_bytes_ += kMapNodeBytes;
        return key;
    }

    std::uint64_t find_mark(std::string_view name) {
        const auto found = marks_.find(name);
        return found != marks_.end()
                   ? found->second
                   : marks_.emplace(name, define_frame("", name, 0)).first->second;
    }

    /// Definitions stand in the next record of this process, whichever that is.
    std::uint64_t define_frame(std::string_view file, std::string_view function,
                               std::uint32_t line) {
        const std::uint64_t file_key = find_string(file);
        const std::uint64_t function_key = find_string(function);
        const std::uint64_t key = writer_.next_key_++;
        append_event(definitions_, Event::kFrame);
        for (const std::uint64_t field : {key, file_key, function_key, std::uint64_t{line},
                                          std::uint64_t{0}, std::uint64_t{0}, std::uint64_t{0}}) {
            append_number(definitions_, field);  // the last three: line_end, column, column_end
        }
        return key;
    }

    std::uint64_t find_string(std::string_view text) {
        if (text.empty()) {
            return kEmptyKey;
        }
        std::string copy(text);
        if (const auto found = strings_.find(copy); found != strings_.end()) {
            return found->second;
        }
        const std::uint64_t key = writer_.next_key_++;
        append_string(definitions_, key, text);
        cached_bytes_ += text.size() + sizeof(std::string) + kMapNodeBytes;
        strings_.emplace(std::move(copy), key);
        return key;
    }

    void forget_if_large() {
        if (cached_bytes_ > kMaxCachedBytes) {
            frames_.clear();
            strings_.clear();
            cached_bytes_ = 0;
        }
    }

    MojoWriter& writer_;
    std::int64_t pid_;
    std::string definitions_;                                  // that have not been written yet
    std::unordered_map<std::uint64_t, std::uint64_t> frames_;  // keys, by Frame::id
    std::unordered_map<std::string, std::uint64_t> strings_;   // keys
    std::unordered_map<std::string_view, std::uint64_t>
        marks_;  // keys of frames; views of literals
    std::size_t cached_bytes_ = 0;
    std::uint64_t output_bytes_ = 0;
};

MojoWriter::MojoWriter(OutputFile& file, const WriterLimits& limits)
    : ProfileWriter(file, limits), next_key_(kFirstKey) {
    file.use_marks();
}

void MojoWriter::write_header(const Metadata& header) {
    std::string text("MOJ");
    append_number(text, kVersion);
    for (const auto& [key, value] : header) {
        append_metadata(text, key, value);
    }
    file().append(text);
    file().mark_end();
}

void MojoWriter::write_footer(std::string_view key, std::string_view value) {
    std::string text;
    append_metadata(text, key, value);
    file().append(text);
    file().mark_end();
}

std::unique_ptr<model::StackSink> MojoWriter::add_process(std::int64_t pid) {
    return std::make_unique<Process>(*this, pid);
}

}  // namespace echion::output
