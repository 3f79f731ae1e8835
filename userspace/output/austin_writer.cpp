#include "output/austin_writer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>
#include <utility>
#include <vector>

#include "output/late_names.h"
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

}  // namespace

/// Keeps every thread's line ready, so that a sample is one copy and a stack that changed at its
/// leaf costs the leaf.
///
///     line:   P1;T0:Main │ ;:INVALID:0 │ ;a.py:f:1 │ ;b.py:g:2
///             0          head_size     root_size   root_size + ends[0]
class AustinWriter::Process final : public model::StackSink {
  public:
    Process(AustinWriter& writer, std::int64_t pid) : writer_(writer), pid_(pid) {}

    void process(model::PythonVersion version) override {
        writer_.add_header("python", format_version(version));
    }

    void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                std::uint32_t native_thread_id, std::string_view name) override {
        if (thread_id >= threads_.size()) {
            threads_.resize(thread_id + 1);
        }
        std::string head("P");
        head += Digits(pid_).view();
        head += ";T";
        head += Digits(interpreter_id).view();
        head += ':';
        append_thread_name(head, native_thread_id, name);
        Thread& thread = threads_[thread_id];
        thread.line.replace(0, thread.head_size, head);
        count_held(thread);
        thread.root_size += head.size() - thread.head_size;
        thread.head_size = head.size();
        thread.late.may_be_named = name.empty();
        if (!name.empty()) {
            write_waiting(thread);
        }
    }

    void thread_ended(std::uint32_t thread_id) override {
        if (thread_id < threads_.size()) {
            write_waiting(threads_[thread_id]);
            held_bytes_ -= threads_[thread_id].held_bytes;
            threads_[thread_id] = {};
        }
    }

    void stack(std::uint32_t thread_id, StackMarks marks, std::size_t kept,
               std::span<const Frame> frames) override {
        if (thread_id >= threads_.size()) {
            return;
        }
        Thread& thread = threads_[thread_id];
        kept = std::min(kept, thread.ends.size());
        thread.ends.resize(kept);
        thread.line.resize(thread.root_size + (kept == 0 ? 0 : thread.ends.back()));
        thread.is_cut = thread.is_cut && kept > thread.first_cut;
        set_marks(thread, marks);
        for (const Frame& frame : frames) {
            append_frame(thread, frame);
        }
        give_back(thread.line);
        give_back(thread.ends);
        count_held(thread);
    }

    void sample(std::uint32_t thread_id, std::int64_t value, model::SampleTime /*until*/) override {
        if (thread_id >= threads_.size()) {
            return;
        }
        Thread& thread = threads_[thread_id];
        std::string tail(thread.line, thread.head_size);
        if (thread.is_cut) {
            tail += kTruncatedFrame;
            writer_.count_shortened();
        }
        if (thread.marks.in_gc) {
            tail += kGcFrame;
        }
        tail += ' ';
        tail += Digits(value).view();
        tail += '\n';
        put_line(thread, std::move(tail), value);
    }

    void missed(std::uint32_t thread_id, std::int64_t value, model::SampleTime /*until*/) override {
        if (thread_id < threads_.size()) {
            std::string tail(kMissedFrame);
            tail += ' ';
            tail += Digits(value).view();
            tail += '\n';
            put_line(threads_[thread_id], std::move(tail), value);
        }
    }

    void checkpoint() override {
        for (Thread& thread : threads_) {
            if (LateNames::ends_wait(thread.late)) {
                write_waiting(thread);
            }
        }
    }

    [[nodiscard]] std::size_t memory_bytes() const override {
        return held_bytes_ + late_names_.waiting_bytes() + threads_.capacity() * sizeof(Thread) +
               texts_bytes_;
    }
    [[nodiscard]] std::uint64_t output_bytes() const override { return output_bytes_; }

  private:
    struct Thread {
        std::string line;
        LateNames::Thread late;  // lines that wait for the thread's name: all behind the head
        std::size_t head_size = 0;
        std::size_t root_size = 0;
        std::vector<std::uint32_t> ends;  // of each frame's text, from root_size
        StackMarks marks;
        bool is_cut = false;  // frames from first_cut on have no text
        std::size_t first_cut = 0;
        std::size_t held_bytes = 0;  // as counted last
    };

    /// Writes a line, or has it wait for the thread's name.
    void put_line(Thread& thread, std::string tail, std::int64_t value) {
        if (!late_names_.keep(thread.late, tail, value)) {
            write_waiting(thread);
            write_line(thread, tail, value);
        }
    }

    void write_line(const Thread& thread, std::string_view tail, std::int64_t value) {
        writer_.end_header();
        const std::size_t bytes = thread.head_size + tail.size();
        if (!writer_.has_room(bytes, value)) {
            return;
        }
        output_bytes_ += bytes;
        const std::string_view head = std::string_view(thread.line).substr(0, thread.head_size);
        if (tail.front() == ' ' && ends_in_number(head)) {
            std::string line(head);
            line[line.find_last_of(' ')] = '_';
            writer_.file().append(line);
        } else {
            writer_.file().append(head);
        }
        writer_.file().append(tail);
        writer_.count_record();
    }

    /// Writes what has waited for the thread's name, under the one that it has now.
    void write_waiting(Thread& thread) {
        for (const LateNames::Record& line : late_names_.take(thread.late)) {
            write_line(thread, line.tail, line.value);
        }
    }

    void count_held(Thread& thread) {
        held_bytes_ -= thread.held_bytes;
        thread.held_bytes =
            thread.line.capacity() + thread.ends.capacity() * sizeof(thread.ends[0]);
        held_bytes_ += thread.held_bytes;
    }

    void set_marks(Thread& thread, StackMarks marks) {
        if (marks == thread.marks) {
            return;
        }
        thread.marks = marks;
        std::string root;
        root += marks.truncated ? kTruncatedFrame : "";
        root += marks.invalid ? kInvalidFrame : "";
        thread.line.replace(thread.head_size, thread.root_size - thread.head_size, root);
        thread.root_size = thread.head_size + root.size();
    }

    void append_frame(Thread& thread, const Frame& frame) {
        if (!thread.is_cut) {
            const std::string& text = find_text(frame);
            const std::size_t bytes = thread.line.size() + text.size();
            if (bytes > writer_.limits().line_bytes ||
                held_bytes_ - thread.held_bytes + bytes > writer_.limits().lines_bytes) {
                thread.is_cut = true;
                thread.first_cut = thread.ends.size();
            } else {
                thread.line += text;
            }
        }
        thread.ends.push_back(static_cast<std::uint32_t>(thread.line.size() - thread.root_size));
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
    std::vector<Thread> threads_;
    LateNames late_names_;
    std::size_t held_bytes_ = 0;  // of all threads
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
