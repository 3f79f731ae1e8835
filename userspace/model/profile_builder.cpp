#include "model/profile_builder.h"

#include <algorithm>
#include <utility>

namespace echion::model {
namespace {

constexpr std::uint64_t kNanosPerMicro = 1000;
/// Of what a stack has earned, this share may wait for its end at a checkpoint.
constexpr std::uint64_t kWaitingShare = 10;
/// The cache of lines starts anew above this (some 100 MB); a program has far fewer call sites.
constexpr std::size_t kMaxCachedLines = 2'000'000;
/// Room of a thread's frames that is no longer used is given back above this.
constexpr std::size_t kMaxSpareFrames = 8192;
/// Of a node of a hash map: the node, its allocation, its share of the buckets.
constexpr std::size_t kMapNodeBytes = 48;
/// Far more than one tick can have in truth: threads that end and begin again in it count anew.
constexpr std::size_t kMaxPendingCpu = 1'000'000;

std::uint64_t make_key(std::uint32_t serial, std::uint32_t low) {
    return (static_cast<std::uint64_t>(serial) << 32U) | low;
}

}  // namespace

/// A code object in force, with its own copy of everything that the view refers to.
struct ProfileBuilder::Code {
    Code(const CodeView& code, std::uint32_t new_serial)
        : serial(new_serial),
          name(code.name),
          qualified_name(code.qualified_name),
          file_name(code.file_name),
          line_table(code.line_table.begin(), code.line_table.end()),
          view{code.kind, code.first_line, name, qualified_name, file_name, line_table} {}
    Code(const Code&) = delete;
    Code& operator=(const Code&) = delete;

    [[nodiscard]] std::size_t held_bytes() const {
        return sizeof(*this) + name.capacity() + qualified_name.capacity() + file_name.capacity() +
               line_table.capacity();
    }
    [[nodiscard]] bool equals(const CodeView& other) const {
        return view.kind == other.kind && view.first_line == other.first_line &&
               view.name == other.name && view.qualified_name == other.qualified_name &&
               view.file_name == other.file_name &&
               std::ranges::equal(view.line_table, other.line_table);
    }

    std::uint32_t serial;
    std::string name;
    std::string qualified_name;
    std::string file_name;
    std::vector<std::byte> line_table;
    CodeView view;
};

ProfileBuilder::ProfileBuilder(StackSink& sink, Metric metric, LineResolver resolve_line)
    : sink_(sink), metric_(metric), resolve_line_(resolve_line) {}

ProfileBuilder::~ProfileBuilder() = default;

void ProfileBuilder::start(std::uint64_t now_ns, PythonVersion version) {
    start_ns_ = now_ns;
    version_ = version;
    sink_.process(version);
}

void ProfileBuilder::tick(std::uint64_t ns) {
    if (ns == 0 || finished_) {
        return;
    }
    end_tick();
    previous_ns_ = now_ns_;
    now_ns_ += ns;
}

/// Settles what could only be told when all batches of the current tick had come.
void ProfileBuilder::end_tick() {
    if (std::exchange(has_stale_, false)) {
        for (std::uint32_t id = 0; id < threads_.size(); ++id) {
            Thread& thread = threads_[id];
            if (!thread.alive || !std::exchange(thread.is_stale, false)) {
                continue;
            }
            if (thread.is_given_again) {
                drop_stack(id, thread);
            } else {
                settle_cpu(thread);
                end_thread(id, thread);
            }
        }
    }
    settle_all_cpu();
}

void ProfileBuilder::settle_all_cpu() {
    for (const std::uint32_t thread_id : pending_cpu_) {
        settle_cpu(threads_[thread_id]);
    }
    pending_cpu_.clear();
}

/// Of a thread that lives, but whose stack is not known any more.
void ProfileBuilder::drop_stack(std::uint32_t thread_id, Thread& thread) {
    if (thread.frames.empty() && thread.marks == StackMarks()) {
        return;
    }
    emit(thread_id, thread);
    thread.handed_us = 0;
    thread.frames.clear();
    thread.marks = {};
    sink_.stack(thread_id, thread.marks, 0, {});
}

void ProfileBuilder::lost(std::uint64_t /*ticks*/, std::uint64_t ns) {
    if (finished_) {
        return;
    }
    settle_all_cpu();  // if the tick began before the loss
    // Nobody knows what the threads did in the meantime: it counts for none of their stacks.
    for (Thread& thread : threads_) {
        if (thread.alive) {
            if (metric_ == Metric::kWallTime) {
                // missed() may have come to the current tick, in an earlier part of it.
                count_wall(thread, previous_ns_);
                thread.since_ns += ns;
            }
            thread.is_stale = true;
            thread.is_given_again = false;
            has_stale_ = true;
        }
    }
    previous_ns_ += ns;
    now_ns_ += ns;
    lost_ns_ += ns;
}

void ProfileBuilder::code(std::uint32_t code_id, const CodeView& code) {
    if (code_id >= codes_.size()) {
        codes_.resize(code_id + 1);
    }
    if (codes_[code_id] != nullptr && codes_[code_id]->equals(code)) {
        return;
    }
    if (codes_[code_id] != nullptr) {
        codes_bytes_ -= codes_[code_id]->held_bytes();
    }
    codes_[code_id] = std::make_unique<Code>(code, next_serial_++);
    codes_bytes_ += codes_[code_id]->held_bytes();
}

void ProfileBuilder::thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                            std::uint32_t native_thread_id, std::string_view name) {
    if (finished_) {
        return;
    }
    if (thread_id >= threads_.size()) {
        threads_.resize(thread_id + 1);
    }
    Thread& thread = threads_[thread_id];
    if (thread.alive) {
        if (thread.has_name) {
            emit(thread_id, thread);  // so far under the old name
        }
        thread.is_given_again = true;
    } else {
        thread = {};
        thread.alive = true;
        thread.since_ns = previous_ns_;
    }
    thread.has_name = !name.empty();
    sink_.thread(thread_id, interpreter_id, native_thread_id, name);
}

void ProfileBuilder::thread_end(std::uint32_t thread_id) {
    if (finished_ || thread_id >= threads_.size() || !threads_[thread_id].alive) {
        return;
    }
    settle_cpu(threads_[thread_id]);
    end_thread(thread_id, threads_[thread_id]);
}

void ProfileBuilder::end_thread(std::uint32_t thread_id, Thread& thread) {
    emit(thread_id, thread);
    sink_.thread_ended(thread_id);
    frames_bytes_ -= thread.frames.capacity() * sizeof(thread.frames[0]);
    thread = {};
}

/// What of some time of the thread counts.
std::uint64_t ProfileBuilder::take_share(Thread& thread, std::uint64_t ns) {
    if (thread.parts <= 1) {
        return thread.parts * ns;
    }
    const std::uint64_t whole_ns = ns + thread.rest_ns;
    thread.rest_ns = static_cast<std::uint32_t>(whole_ns % thread.parts);
    return whole_ns / thread.parts;
}

/// Counts the thread's wall time up to then, if that is not done yet.
void ProfileBuilder::count_wall(Thread& thread, std::uint64_t until_ns) {
    // A thread that began and changed within one tick has not come to the tick before it.
    if (until_ns > thread.since_ns) {
        thread.banked_ns += take_share(thread, until_ns - thread.since_ns);
        thread.since_ns = until_ns;
    }
}

/// Hands on what the thread's stack has earned up to the previous tick.
void ProfileBuilder::emit(std::uint32_t thread_id, Thread& thread) {
    if (metric_ == Metric::kWallTime) {
        count_wall(thread, previous_ns_);
    }
    const std::uint64_t value = thread.banked_ns / kNanosPerMicro;
    if (value != 0) {
        thread.banked_ns %= kNanosPerMicro;
        const std::uint64_t until_ns =
            metric_ == Metric::kWallTime ? thread.since_ns : previous_ns_;
        sink_.sample(thread_id, static_cast<std::int64_t>(value), start_ns_ + until_ns);
        thread.handed_us += value;
        value_us_ += value;
        ++samples_;
    }
}

std::uint32_t ProfileBuilder::find_line(FrameLocation location) {
    const Code& code = *codes_[location.code_id];
    if (code.view.kind == CodeKind::kLines) {
        return static_cast<std::uint32_t>(std::max(location.offset, 0));
    }
    const std::uint64_t key = make_key(code.serial, static_cast<std::uint32_t>(location.offset));
    if (const auto found = lines_.find(key); found != lines_.end()) {
        return found->second;
    }
    if (lines_.size() >= kMaxCachedLines) {
        lines_.clear();
    }
    const bool has_line = code.view.kind != CodeKind::kLabel;
    if (has_line) {
        // A table is searched from its start: of 260,000 frames with a table of 1 MiB each a search
        // would take minutes. True programs have small tables, and few new frames at a time.
        searched_bytes_ += code.view.line_table.size();
        if (searched_bytes_ > kMaxSearchedBytes) {
            ++lines_skipped_;
            return code.view.first_line;
        }
    }
    const std::uint32_t line = has_line ? resolve_line_(code.view, location.offset) : 0;
    lines_.emplace(key, line);
    return line;
}

std::uint64_t ProfileBuilder::find_frame_id(FrameLocation location) {
    return make_key(codes_[location.code_id]->serial, find_line(location));
}

void ProfileBuilder::stack(std::uint32_t thread_id, StackMarks marks, std::uint32_t kept,
                           std::span<const FrameLocation> frames) {
    if (finished_ || thread_id >= threads_.size()) {
        return;
    }
    Thread& thread = threads_[thread_id];
    if (!thread.alive) {
        return;
    }
    if (std::exchange(thread.is_stale, false)) {
        thread.since_ns = std::max(thread.since_ns, previous_ns_);
    }
    thread.has_had_stack = true;
    kept = static_cast<std::uint32_t>(std::min<std::size_t>(kept, thread.frames.size()));
    searched_bytes_ = 0;

    // Another instruction on the same line is the same frame: look for the first real difference.
    std::size_t same = kept;
    std::size_t next = 0;
    while (next < frames.size() && same < thread.frames.size()) {
        if (find_frame_id(frames[next]) != thread.frames[same]) {
            break;
        }
        ++same;
        ++next;
    }
    if (next == frames.size() && same == thread.frames.size() && marks == thread.marks) {
        return;
    }
    emit(thread_id, thread);
    thread.handed_us = 0;
    changed_.clear();
    frames_bytes_ -= thread.frames.capacity() * sizeof(thread.frames[0]);
    thread.frames.resize(same);
    for (; next < frames.size(); ++next) {
        const std::uint64_t id = find_frame_id(frames[next]);
        changed_.push_back(
            {id, codes_[frames[next].code_id]->view, static_cast<std::uint32_t>(id)});
        thread.frames.push_back(id);
    }
    if (thread.frames.capacity() > kMaxSpareFrames &&
        thread.frames.capacity() / 4 > thread.frames.size()) {
        thread.frames.shrink_to_fit();
    }
    frames_bytes_ += thread.frames.capacity() * sizeof(thread.frames[0]);
    thread.marks = marks;
    sink_.stack(thread_id, marks, same, changed_);
    if (changed_.capacity() > kMaxSpareFrames) {
        changed_ = std::vector<Frame>();
    }
}

void ProfileBuilder::cpu(std::uint32_t thread_id, std::uint64_t ns) {
    if (metric_ != Metric::kCpuTime || ns == 0 || thread_id >= threads_.size() ||
        !threads_[thread_id].alive) {
        return;
    }
    // The thread's new stack may still be on its way in this tick.
    if (threads_[thread_id].pending_cpu_ns == 0) {
        if (pending_cpu_.size() >= kMaxPendingCpu) {
            return;
        }
        pending_cpu_.push_back(thread_id);
    }
    threads_[thread_id].pending_cpu_ns += ns;
}

void ProfileBuilder::missed(std::uint32_t thread_id, std::uint64_t ns) {
    if (finished_ || thread_id >= threads_.size()) {
        return;
    }
    Thread& thread = threads_[thread_id];
    if (!thread.alive) {
        return;
    }
    if (metric_ == Metric::kWallTime) {
        const std::uint64_t own_ns = now_ns_ - std::min(now_ns_, thread.since_ns);
        if (thread.has_had_stack) {
            ns = std::min(ns, own_ns);
            count_wall(thread, now_ns_ - ns);
        }
        thread.since_ns = now_ns_;
        ns = take_share(thread, ns);
        emit(thread_id, thread);
    }
    add_missed(thread_id, thread, ns);
}

void ProfileBuilder::add_missed(std::uint32_t thread_id, Thread& thread, std::uint64_t ns) {
    thread.missed_ns += ns;
    const std::uint64_t value = thread.missed_ns / kNanosPerMicro;
    if (value != 0) {
        thread.missed_ns %= kNanosPerMicro;
        sink_.missed(thread_id, static_cast<std::int64_t>(value), start_ns_ + now_ns_);
        missed_us_ += value;
        value_us_ += value;
    }
}

void ProfileBuilder::share(std::uint32_t thread_id, std::uint32_t parts) {
    if (finished_ || metric_ != Metric::kWallTime || thread_id >= threads_.size() ||
        !threads_[thread_id].alive) {
        return;
    }
    count_wall(threads_[thread_id], previous_ns_);
    threads_[thread_id].parts = parts;
    threads_[thread_id].rest_ns = 0;
}

void ProfileBuilder::live_on(std::uint64_t ns, std::uint64_t longest_gap_ns) {
    if (finished_ || metric_ != Metric::kWallTime || ns == 0) {
        return;
    }
    tick(ns);
    if (ns <= longest_gap_ns) {
        return;
    }
    for (std::uint32_t id = 0; id < threads_.size(); ++id) {
        if (threads_[id].alive) {
            missed(id, ns);
        }
    }
}

void ProfileBuilder::end_after(std::uint32_t thread_id, std::uint64_t ns,
                               std::uint64_t longest_gap_ns) {
    if (finished_ || metric_ != Metric::kWallTime || thread_id >= threads_.size() ||
        !threads_[thread_id].alive || threads_[thread_id].is_stale) {
        return;
    }
    Thread& thread = threads_[thread_id];
    count_wall(thread, now_ns_);
    const std::uint64_t own_ns = take_share(thread, ns);
    if (ns <= longest_gap_ns) {
        thread.banked_ns += own_ns;
    } else {
        emit(thread_id, thread);
        add_missed(thread_id, thread, own_ns);
    }
    end_thread(thread_id, thread);
}

void ProfileBuilder::settle_cpu(Thread& thread) {
    thread.banked_ns += std::exchange(thread.pending_cpu_ns, 0);
}

std::size_t ProfileBuilder::memory_bytes() const {
    return codes_.capacity() * sizeof(codes_[0]) + codes_bytes_ +
           threads_.capacity() * sizeof(threads_[0]) + frames_bytes_ +
           lines_.size() * kMapNodeBytes + changed_.capacity() * sizeof(changed_[0]) +
           pending_cpu_.capacity() * sizeof(pending_cpu_[0]);
}

void ProfileBuilder::checkpoint() {
    for (std::uint32_t id = 0; id < threads_.size(); ++id) {
        Thread& thread = threads_[id];
        if (!thread.alive || thread.is_stale || finished_) {
            continue;
        }
        if (metric_ == Metric::kWallTime) {
            count_wall(thread, previous_ns_);
        }
        if (thread.banked_ns / kNanosPerMicro >= thread.handed_us / (kWaitingShare - 1)) {
            emit(id, thread);
        }
    }
}

void ProfileBuilder::finish() {
    if (std::exchange(finished_, true)) {
        return;
    }
    end_tick();
    previous_ns_ = now_ns_;
    for (std::uint32_t id = 0; id < threads_.size(); ++id) {
        if (threads_[id].alive) {
            end_thread(id, threads_[id]);
        }
    }
}

}  // namespace echion::model
