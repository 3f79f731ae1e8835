#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <protozero/pbf_writer.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

#include "output/pprof_writer.h"
#include "output/process_sink.h"
#include "output/spare_room.h"
#include "output/text.h"

namespace echion::output {
namespace {

using model::CodeKind;
using model::Frame;
using model::StackMarks;
using protozero::pbf_writer;

// Numbers of the fields in profile.proto.
namespace sample_fields {
enum : protozero::pbf_tag_type { kLocationId = 1, kLabel = 3 };
}  // namespace sample_fields
namespace label_fields {
enum : protozero::pbf_tag_type { kKey = 1, kStr = 2, kNum = 3 };
}  // namespace label_fields

/// What is known to be defined is forgotten above this, and defined again.
constexpr std::size_t kMaxCachedBytes = std::size_t{64} << 20;
/// Stacks whose times are added up, of one process. Above it all are written, and it begins anew.
constexpr std::size_t kMaxTableBytes = std::size_t{16} << 20;
/// Of a node of a hash map: the node, its allocation, its share of the buckets.
constexpr std::size_t kMapNodeBytes = 48;
/// Of what a stack has earned, this share may wait for the end.
constexpr std::int64_t kWaitingShare = 10;

enum class Mark : std::uint8_t { kTruncated, kInvalid, kMissed, kGc };
constexpr std::array<std::string_view, 4> kMarkNames = {"TRUNCATED", "INVALID", "MISSED", "GC"};

std::int64_t add_capped(std::int64_t a, std::int64_t b) {
    const std::int64_t most = std::numeric_limits<std::int64_t>::max();
    return b > most - a ? most : a + b;
}

void add_text_label(pbf_writer& sample, std::uint64_t key, std::uint64_t text) {
    pbf_writer label(sample, sample_fields::kLabel);
    label.add_int64(label_fields::kKey, static_cast<std::int64_t>(key));
    label.add_int64(label_fields::kStr, static_cast<std::int64_t>(text));
}

void add_number_label(pbf_writer& sample, std::uint64_t key, std::int64_t number) {
    pbf_writer label(sample, sample_fields::kLabel);
    label.add_int64(label_fields::kKey, static_cast<std::int64_t>(key));
    label.add_int64(label_fields::kNum, number);
}

}  // namespace

/// Keeps every thread's stack as numbers of locations, and the times of its process's stacks.
class PprofWriter::Process final : public ProcessSink<NumberedStack> {
  public:
    Process(PprofWriter& writer, std::int64_t pid) : writer_(writer), pid_(pid) {}
    ~Process() override { write_table(true); }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    void process(model::PythonVersion version) override {
        writer_.add_header("python", format_version(version));
    }

    void stack(std::uint32_t thread_id, StackMarks marks, std::size_t kept,
               std::span<const Frame> frames) override {
        if (!writer_.is_full()) {
            ProcessSink::stack(thread_id, marks, kept, frames);
        }
    }

    void sample(std::uint32_t thread_id, std::int64_t value, model::SampleTime until) override {
        if (!is_cut(value)) {
            ProcessSink::sample(thread_id, value, until);
        }
    }

    void missed(std::uint32_t thread_id, std::int64_t value, model::SampleTime until) override {
        if (!is_cut(value)) {
            ProcessSink::missed(thread_id, value, until);
        }
    }

    void checkpoint() override {
        ProcessSink::checkpoint();
        write_table(false);
    }

    [[nodiscard]] std::size_t memory_bytes() const override {
        return ProcessSink::memory_bytes() + cached_bytes_ + table_bytes_;
    }
    /// Its share of the file, by its share of what was compressed.
    [[nodiscard]] std::uint64_t output_bytes() const override {
        if (plain_bytes_ == 0) {
            return 0;
        }
        const double share =
            static_cast<double>(plain_bytes_) / static_cast<double>(writer_.plain_bytes_);
        return static_cast<std::uint64_t>(share *
                                          static_cast<double>(writer_.file().appended_bytes()));
    }

  private:
    struct Times {
        std::int64_t waiting_us = 0;
        std::int64_t written_us = 0;
    };
    struct KnownMark {
        std::uint64_t name = 0;
        std::uint64_t location = 0;
    };

    /// Once the output is full; counts it then.
    bool is_cut(std::int64_t value) {
        if (writer_.is_full()) {
            writer_.cut(value);
        }
        return writer_.is_full();
    }

    /// The labels of the thread's samples.
    std::string make_head(std::int64_t interpreter_id, std::uint32_t native_thread_id,
                          std::string_view name) override {
        std::string shown;
        append_thread_name(shown, native_thread_id, name);
        const std::uint64_t shown_string = find_string(shown);
        std::string labels;
        pbf_writer sample(labels);
        add_number_label(sample, kPid, pid_);
        add_text_label(sample, kThread, shown_string);
        if (native_thread_id != 0) {
            add_number_label(sample, kTid, native_thread_id);
        }
        if (interpreter_id != 0) {
            add_number_label(sample, kInterpreter, interpreter_id);
        }
        return labels;
    }

    void change_stack(Thread& thread, StackMarks /*marks*/, std::size_t kept,
                      std::span<const Frame> frames) override {
        NumberedStack& locations = thread.stack;
        locations.resize(std::min(kept, locations.size()));
        for (const Frame& frame : frames) {
            locations.push_back(find_location(frame));
        }
        give_back(locations);
    }

    std::string make_tail(const Thread& thread) override {
        const StackMarks marks = thread.marks;
        std::vector<std::uint64_t> leaf_first;
        leaf_first.reserve(thread.stack.size() + kMarkNames.size());
        if (marks.in_gc) {
            leaf_first.push_back(find_mark(Mark::kGc).location);
        }
        leaf_first.insert(leaf_first.end(), thread.stack.rbegin(), thread.stack.rend());
        if (marks.invalid) {
            leaf_first.push_back(find_mark(Mark::kInvalid).location);
        }
        if (marks.truncated) {
            leaf_first.push_back(find_mark(Mark::kTruncated).location);
        }
        std::string tail;
        pbf_writer sample(tail);
        sample.add_packed_uint64(sample_fields::kLocationId, leaf_first.begin(), leaf_first.end());
        for (const auto& [is_marked, mark] :
             {std::pair{marks.in_gc, Mark::kGc}, std::pair{marks.invalid, Mark::kInvalid},
              std::pair{marks.truncated, Mark::kTruncated}}) {
            if (is_marked) {
                add_text_label(sample, kMark, find_mark(mark).name);
            }
        }
        return tail;
    }

    std::string make_missed_tail() override {
        const KnownMark& mark = find_mark(Mark::kMissed);
        std::string tail;
        pbf_writer sample(tail);
        sample.add_packed_uint64(sample_fields::kLocationId, &mark.location, &mark.location + 1);
        add_text_label(sample, kMark, mark.name);
        return tail;
    }

    /// Adds the time to what the same stack of the same thread has.
    void put_record(const Thread& thread, std::string_view tail, std::int64_t value_us) override {
        std::string sample(tail);
        sample += thread.head;
        const std::size_t entry_bytes = sample.size() + sizeof(Times) + kMapNodeBytes;
        const auto [entry, is_new] = table_.try_emplace(std::move(sample));
        table_bytes_ += is_new ? entry_bytes : 0;
        entry->second.waiting_us = add_capped(entry->second.waiting_us, value_us);
        if (table_bytes_ > kMaxTableBytes) {
            write_table(true);
            table_.clear();
            table_bytes_ = 0;
        }
    }

    /// Writes what has waited, of all stacks or of those that have earned much since.
    void write_table(bool all) {
        for (auto& [sample, times] : table_) {
            const bool is_due = all || times.waiting_us >= times.written_us / (kWaitingShare - 1);
            if (times.waiting_us == 0 || !is_due) {
                continue;
            }
            const std::uint64_t before = writer_.plain_bytes_;
            writer_.write_sample(sample, times.waiting_us);
            plain_bytes_ += writer_.plain_bytes_ - before;
            times.written_us = add_capped(times.written_us, times.waiting_us);
            times.waiting_us = 0;
        }
    }

    std::uint64_t find_location(const Frame& frame) {
        if (const auto found = locations_.find(frame.id); found != locations_.end()) {
            return found->second;
        }
        if (cached_bytes_ > kMaxCachedBytes) {
            locations_.clear();
            functions_.clear();
            strings_.clear();
            cached_bytes_ = 0;
        }
        std::string file;
        if (frame.code.kind != CodeKind::kLabel) {
            append_file_name(file, frame.code.file_name);
        }
        std::string name;
        append_function_name(name, frame.code);
        const std::uint64_t location =
            writer_.define_location(find_function(name, file, frame.code.first_line), frame.line);
        locations_.emplace(frame.id, location);
        cached_bytes_ += kMapNodeBytes;
        return location;
    }

    std::uint64_t find_function(const std::string& name, const std::string& file,
                                std::uint32_t first_line) {
        // No name has a line break in it.
        const std::string key = name + '\n' + file + '\n' + std::to_string(first_line);
        if (const auto found = functions_.find(key); found != functions_.end()) {
            return found->second;
        }
        const std::uint64_t name_string = find_string(name);
        const std::uint64_t id =
            writer_.define_function(name_string, find_string(file), first_line);
        cached_bytes_ += key.size() + sizeof(std::string) + kMapNodeBytes;
        functions_.emplace(key, id);
        return id;
    }

    std::uint64_t find_string(const std::string& text) {
        if (text.empty()) {
            return kEmpty;
        }
        if (const auto found = strings_.find(text); found != strings_.end()) {
            return found->second;
        }
        const std::uint64_t index = writer_.define_string(text);
        cached_bytes_ += text.size() + sizeof(std::string) + kMapNodeBytes;
        strings_.emplace(text, index);
        return index;
    }

    const KnownMark& find_mark(Mark mark) {
        const auto index = static_cast<std::size_t>(mark);
        std::optional<KnownMark>& known = marks_[index];
        if (!known) {
            const std::uint64_t name = writer_.define_string(kMarkNames[index]);
            const std::uint64_t function = writer_.define_function(name, kEmpty, 0);
            known = KnownMark{name, writer_.define_location(function, 0)};
        }
        return *known;
    }

    PprofWriter& writer_;
    std::int64_t pid_;
    // By the message Sample without its value.
    std::unordered_map<std::string, Times> table_;
    std::size_t table_bytes_ = 0;
    std::unordered_map<std::uint64_t, std::uint64_t> locations_;  // by Frame::id
    std::unordered_map<std::string, std::uint64_t> functions_;    // by name, file and first line
    std::unordered_map<std::string, std::uint64_t> strings_;
    std::array<std::optional<KnownMark>, kMarkNames.size()> marks_;
    std::size_t cached_bytes_ = 0;
    std::uint64_t plain_bytes_ = 0;  // of writer_.plain_bytes_
};

std::unique_ptr<model::StackSink> PprofWriter::add_process(std::int64_t pid) {
    return std::make_unique<Process>(*this, pid);
}

}  // namespace echion::output
