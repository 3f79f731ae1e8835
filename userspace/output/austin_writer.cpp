#include "output/austin_writer.h"

#include <algorithm>
#include <array>
#include <charconv>
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

/// The cache of frames' texts starts anew above this.
constexpr std::size_t kMaxCachedBytes = std::size_t{64} << 20;

constexpr std::string_view kGcFrame = ";:GC:0";
constexpr std::string_view kInvalidFrame = ";:INVALID:0";
constexpr std::string_view kTruncatedFrame = ";:TRUNCATED:0";
constexpr std::string_view kMissedFrame = ";:MISSED:0";

class Digits {
  public:
    explicit Digits(std::int64_t value) {
        end_ = std::to_chars(text_.data(), text_.data() + text_.size(), value).ptr;
    }
    [[nodiscard]] std::string_view view() const {
        return {text_.data(), static_cast<std::size_t>(end_ - text_.data())};
    }

  private:
    std::array<char, 24> text_;
    char* end_;
};

std::string make_frame_text(const Frame& frame) {
    std::string text(";");
    const bool is_label = frame.code.kind == CodeKind::kLabel;
    if (!is_label) {
        append_file_name(text, frame.code.file_name);
    }
    text += ':';
    append_function_name(text, frame.code);
    text += ':';
    text += Digits(frame.line).view();
    return text;
}

/// Whether flamegraph.pl would take the end of the value for the metric of a stack.
bool ends_like_metric(std::string_view value) {
    const std::size_t space = value.find_last_of(' ');
    const std::string_view last = space == value.npos ? value : value.substr(space + 1);
    return !last.empty() && last.find_first_not_of("0123456789.") == last.npos;
}

void append_metadata(std::string& to, std::string_view key, std::string_view value) {
    to += "# ";
    append_name(to, key);
    to += ": ";
    append_file_name(to, value);
    to += ends_like_metric(value) ? " \n" : "\n";
}

/// A thread's line behind its head, ready to be copied; a change at the leaf costs the leaf.
///
///     text:   ;:INVALID:0 │ ;a.py:f:1 │ ;b.py:g:2
///             0           root_size   root_size + ends[0]
struct Line {
    std::string text;
    std::size_t root_size = 0;
    std::vector<std::uint32_t> ends;  // of each frame's text, from root_size
    bool is_cut = false;              // frames from first_cut on have no text
    std::size_t first_cut = 0;
};

std::size_t held_bytes(const Line& line) {
    return line.text.capacity() + line.ends.capacity() * sizeof(line.ends[0]);
}

}  // namespace

class AustinWriter::Process final : public ProcessSink<Line> {
  public:
    Process(AustinWriter& writer, std::int64_t pid) : writer_(writer), pid_(pid) {}

    void process(model::PythonVersion version) override {
        writer_.add_header("python", format_version(version));
    }

    [[nodiscard]] std::size_t memory_bytes() const override {
        return ProcessSink::memory_bytes() + texts_bytes_;
    }
    [[nodiscard]] std::uint64_t output_bytes() const override { return output_bytes_; }

  private:
    std::string make_head(std::int64_t interpreter_id, std::uint32_t native_thread_id,
                          std::string_view name) override {
        std::string head("P");
        head += Digits(pid_).view();
        head += ";T";
        head += Digits(interpreter_id).view();
        head += ':';
        append_thread_name(head, native_thread_id, name);
        return head;
    }

    void change_stack(Thread& thread, StackMarks marks, std::size_t kept,
                      std::span<const Frame> frames) override {
        Line& line = thread.stack;
        kept = std::min(kept, line.ends.size());
        line.ends.resize(kept);
        line.text.resize(line.root_size + (kept == 0 ? 0 : line.ends.back()));
        line.is_cut = line.is_cut && kept > line.first_cut;
        if (marks != thread.marks) {
            set_root(line, marks);
        }
        for (const Frame& frame : frames) {
            append_frame(thread, frame);
        }
        give_back(line.text);
        give_back(line.ends);
    }

    std::string make_tail(const Thread& thread) override {
        std::string tail(thread.stack.text);
        if (thread.stack.is_cut) {
            tail += kTruncatedFrame;
            writer_.count_shortened();
        }
        if (thread.marks.in_gc) {
            tail += kGcFrame;
        }
        return tail;
    }

    std::string make_missed_tail() override { return std::string(kMissedFrame); }

    void put_record(const Thread& thread, std::string_view tail, std::int64_t value) override {
        writer_.end_header();
        const Digits digits(value);
        const std::size_t bytes = thread.head.size() + tail.size() + 1 + digits.view().size() + 1;
        if (!writer_.has_room(bytes, value)) {
            return;
        }
        output_bytes_ += bytes;
        if (tail.empty() && ends_in_number(thread.head)) {
            std::string head(thread.head);
            head[head.find_last_of(' ')] = '_';
            writer_.file().append(head);
        } else {
            writer_.file().append(thread.head);
        }
        writer_.file().append(tail);
        writer_.file().append(" ");
        writer_.file().append(digits.view());
        writer_.file().append("\n");
        writer_.count_record();
    }

    static void set_root(Line& line, StackMarks marks) {
        std::string root;
        root += marks.truncated ? kTruncatedFrame : "";
        root += marks.invalid ? kInvalidFrame : "";
        line.text.replace(0, line.root_size, root);
        line.root_size = root.size();
    }

    void append_frame(Thread& thread, const Frame& frame) {
        Line& line = thread.stack;
        if (!line.is_cut) {
            const std::string& text = find_text(frame);
            const std::size_t bytes = thread.head.size() + line.text.size() + text.size();
            if (bytes > writer_.limits().line_bytes ||
                held_bytes_beside(thread) + bytes > writer_.limits().lines_bytes) {
                line.is_cut = true;
                line.first_cut = line.ends.size();
            } else {
                line.text += text;
            }
        }
        line.ends.push_back(static_cast<std::uint32_t>(line.text.size() - line.root_size));
    }

    const std::string& find_text(const Frame& frame) {
        if (const auto found = texts_.find(frame.id); found != texts_.end()) {
            return found->second;
        }
        if (texts_bytes_ > kMaxCachedBytes) {
            texts_.clear();
            texts_bytes_ = 0;
        }
        const auto made = texts_.emplace(frame.id, make_frame_text(frame)).first;
        texts_bytes_ += made->second.size() + sizeof(*made);
        return made->second;
    }

    AustinWriter& writer_;
    std::int64_t pid_;
    std::uint64_t output_bytes_ = 0;
    std::unordered_map<std::uint64_t, std::string> texts_;  // by Frame::id
    std::size_t texts_bytes_ = 0;
};

void AustinWriter::write_header(const Metadata& header) {
    std::string text;
    for (const auto& [key, value] : header) {
        append_metadata(text, key, value);
    }
    text += '\n';
    file().append(text);
}

void AustinWriter::write_footer(std::string_view key, std::string_view value) {
    scratch_ = std::exchange(footer_begun_, true) ? "" : "\n";
    append_metadata(scratch_, key, value);
    file().append(scratch_);
}

std::unique_ptr<model::StackSink> AustinWriter::add_process(std::int64_t pid) {
    return std::make_unique<Process>(*this, pid);
}

}  // namespace echion::output
