#include "cli/follow_model.h"

namespace echion::cli {
namespace {

std::uint64_t hash_stack(const std::vector<FrameId>& frames, bool is_whole) {
    std::uint64_t hash = is_whole ? 1 : 2;
    for (const FrameId frame : frames) {
        hash = (hash ^ frame) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 29;
    }
    return hash;
}

}  // namespace

void FollowModel::begin_sample(std::int64_t elapsed_ns) {
    step_ns_ = elapsed_ns;
    elapsed_ns_ += elapsed_ns;
    ++samples_;
    for (FollowThread& thread : threads_) {
        thread.is_present = false;
    }
}

FollowThread* FollowModel::find(const report::CapturedThread& captured) {
    const std::pair key(captured.state.value(), captured.state_id);
    if (const auto known = thread_index_.find(key); known != thread_index_.end()) {
        return &threads_[known->second];
    }
    if (threads_.size() == kMaxThreads) {
        return nullptr;
    }
    thread_index_.emplace(key, threads_.size());
    stack_index_.emplace_back();
    return &threads_.emplace_back();
}

std::optional<FrameId> FollowModel::number(const report::SourceFrame& frame) {
    std::string key;
    key.reserve(frame.function.size() + frame.file.size() + 12);
    key.append(frame.function).append(1, '\0').append(frame.file).append(1, '\0');
    key += std::to_string(frame.line);
    if (const auto known = frame_index_.find(key); known != frame_index_.end()) {
        return known->second;
    }
    if (frames_.size() == kMaxFrames) {
        return std::nullopt;
    }
    const auto id = static_cast<FrameId>(frames_.size());
    frames_.push_back({std::string(frame.function), std::string(frame.file), frame.line});
    frame_index_.emplace(std::move(key), id);
    return id;
}

std::size_t FollowModel::find_stack(FollowThread& thread, const std::vector<FrameId>& frames,
                                    bool is_whole) {
    auto& index = stack_index_[static_cast<std::size_t>(&thread - threads_.data())];
    const std::uint64_t hash = hash_stack(frames, is_whole);
    const auto [first, last] = index.equal_range(hash);
    for (auto at = first; at != last; ++at) {
        const FollowStack& stack = thread.stacks[at->second];
        if (stack.frames == frames && stack.is_whole == is_whole) {
            return at->second;
        }
    }
    if (thread.stacks.size() >= kMaxStacksPerThread && !frames.empty()) {
        thread.has_left_out = true;
        return find_stack(thread, {}, false);
    }
    index.emplace(hash, thread.stacks.size());
    FollowStack stack;
    stack.frames = frames;
    stack.is_whole = is_whole;
    thread.stacks.push_back(std::move(stack));
    return thread.stacks.size() - 1;
}

void FollowModel::add(FollowThread& thread, const report::CapturedThread& captured,
                      const std::optional<ThreadRun>& run, const std::vector<FrameId>* frames) {
    const bool is_new = thread.stacks.empty();
    if (frames != nullptr || is_new) {
        thread.captured = captured;
        const bool is_whole = !captured.is_truncated && !captured.is_broken &&
                              captured.consistency != report::Consistency::kTorn;
        static const std::vector<FrameId> no_frames;
        thread.current = find_stack(thread, frames != nullptr ? *frames : no_frames, is_whole);
    } else {
        // What was found when its stack was read last still holds.
        const report::CapturedThread last = thread.captured;
        thread.captured = captured;
        thread.captured.kernel_state = last.kernel_state;
        thread.captured.gil_role = last.gil_role;
        thread.captured.consistency = last.consistency;
        thread.captured.is_truncated = last.is_truncated;
        thread.captured.is_broken = last.is_broken;
    }
    // A thread's first reading is a start.
    const std::int64_t seen_ns = is_new ? 0 : step_ns_;
    std::int64_t cpu_ns = 0;
    if (run && thread.run && run->run_ns > thread.run->run_ns && !is_new) {
        cpu_ns = run->run_ns - thread.run->run_ns;
    }
    if (run) {
        thread.run = run;
    }
    FollowStack& stack = thread.stacks[thread.current];
    stack.time_ns += cpu_ ? cpu_ns : seen_ns;
    ++stack.samples;
    thread.seen_ns += seen_ns;
    thread.cpu_ns += cpu_ns;
    thread.recent_seen_ns += seen_ns;
    thread.recent_cpu_ns += cpu_ns;
    thread.was_running = captured.is_skipped ? thread.was_running : captured.kernel_state == 'R';
    thread.is_present = true;
}

void FollowModel::begin_recent() {
    for (FollowThread& thread : threads_) {
        thread.recent_seen_ns = 0;
        thread.recent_cpu_ns = 0;
    }
}

}  // namespace echion::cli
