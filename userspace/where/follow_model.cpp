#include "where/follow_model.h"

#include <unistd.h>

#include <algorithm>

#include "base/clock.h"

namespace echion::where {
namespace {

// Of ThreadStat::cpu_ticks.
const std::int64_t kTicksPerSecond = sysconf(_SC_CLK_TCK);

std::uint64_t hash_stack(const std::vector<FrameId>& frames, bool is_whole) {
    std::uint64_t hash = is_whole ? 1 : 2;
    for (const FrameId frame : frames) {
        hash = (hash ^ frame) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 29;
    }
    return hash;
}

/// Takes as much of `ns` from a thread's unexplained time as there is, latest first, and tells
/// `give` of each part.
template <typename Give>
void take_unexplained(FollowThread& thread, std::int64_t ns, Give give) {
    auto& unexplained = thread.unexplained;
    while (ns > 0 && !unexplained.empty()) {
        UnexplainedTime& last = unexplained.back();
        const std::int64_t part_ns = std::min(ns, last.ns);
        give(thread.stacks[last.stack], part_ns);
        ns -= part_ns;
        last.ns -= part_ns;
        if (last.ns == 0) {
            unexplained.pop_back();
        }
    }
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

FollowThread* FollowModel::find(const capture::CapturedThread& captured) {
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

std::optional<FrameId> FollowModel::number(const capture::SourceFrame& frame) {
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
        return find_stack(thread, {}, false);
    }
    index.emplace(hash, thread.stacks.size());
    FollowStack stack;
    stack.frames = frames;
    stack.is_whole = is_whole;
    thread.stacks.push_back(std::move(stack));
    return thread.stacks.size() - 1;
}

void FollowModel::add(FollowThread& thread, const capture::CapturedThread& captured,
                      const std::optional<ThreadRun>& run, const std::vector<FrameId>* frames) {
    const bool is_new = thread.stacks.empty();
    const std::size_t previous = thread.current;
    if (frames != nullptr || is_new) {
        thread.captured = captured;
        const bool is_whole = !captured.is_truncated && !captured.is_broken &&
                              captured.consistency != capture::Consistency::kTorn;
        static const std::vector<FrameId> no_frames;
        thread.current = find_stack(thread, frames != nullptr ? *frames : no_frames, is_whole);
    } else {
        // What was found when its stack was read last still holds.
        const capture::CapturedThread last = thread.captured;
        thread.captured = captured;
        thread.captured.kernel_state = last.kernel_state;
        thread.captured.scheduling = last.scheduling;
        thread.captured.cpu_ticks = last.cpu_ticks;
        thread.captured.gil_role = last.gil_role;
        thread.captured.consistency = last.consistency;
        thread.captured.is_truncated = last.is_truncated;
        thread.captured.is_broken = last.is_broken;
    }
    ++thread.stacks[thread.current].samples;
    // A thread's first reading is a start.
    if (!is_new) {
        account(thread, previous, captured, run);
    }
    if (run) {
        thread.run = run;
    }
    thread.had_gil_last = captured.had_gil_last;
    if (captured.is_lent) {
        thread.is_lent = true;
        thread.run.reset();
    }
    if (!captured.is_skipped) {
        thread.cpu_ticks = std::max(thread.cpu_ticks, captured.cpu_ticks);
        thread.was_running = captured.kernel_state == 'R';
    }
    thread.is_present = true;
}

void FollowModel::account(FollowThread& thread, std::size_t previous,
                          const capture::CapturedThread& captured,
                          const std::optional<ThreadRun>& run) {
    FollowStack& stack = thread.stacks[thread.current];
    stack.spent.seen_ns += step_ns_;
    stack.time_ns += cpu_ ? 0 : step_ns_;
    thread.spent.seen_ns += step_ns_;
    thread.recent.seen_ns += step_ns_;
    auto& unexplained = thread.unexplained;
    if (unexplained.empty() || unexplained.back().stack != thread.current) {
        if (unexplained.size() == kMaxUnexplained) {
            unexplained.erase(unexplained.begin());
        }
        unexplained.push_back({thread.current, 0});
    }
    unexplained.back().ns += step_ns_;
    if (!run || !thread.run) {
        if (!run && !thread.run && !captured.is_skipped) {
            const std::int64_t ticks = captured.cpu_ticks - thread.cpu_ticks;
            explain_on_cpu(thread, ticks * (kNanosPerSecond / kTicksPerSecond));
        }
        return;
    }
    if (*run == *thread.run) {
        const bool is_same = thread.current == previous && thread.was_running &&
                             !captured.is_skipped && captured.kernel_state == 'R';
        thread.still_ns = is_same ? thread.still_ns + step_ns_ : 0;
        if (thread.still_ns > std::max(tick_ns_ * 3 / 2, thread.ahead_ns)) {
            explain_runnable(thread, thread.still_ns - thread.ahead_ns);
            thread.ahead_ns = thread.still_ns;
        }
        return;
    }
    const std::int64_t waited_ns = run->wait_ns - thread.run->wait_ns - thread.ahead_ns;
    if (waited_ns < 0 && thread.ahead_ns > 0) {
        // It was on a CPU whose clock stood still (CONFIG_NO_HZ_FULL).
        const std::int64_t back_ns = std::min(-waited_ns, thread.ahead_ns);
        thread.stacks[previous].spent.runnable_ns -= back_ns;
        thread.spent.runnable_ns -= back_ns;
        thread.recent.runnable_ns = std::max<std::int64_t>(thread.recent.runnable_ns - back_ns, 0);
        const auto at = unexplained.end() - (unexplained.back().stack == previous ? 0 : 1);
        unexplained.insert(at, {previous, back_ns});
    }
    thread.still_ns = 0;
    thread.ahead_ns = 0;
    explain_on_cpu(thread, run->run_ns - thread.run->run_ns);
    explain_runnable(thread, waited_ns);
}

void FollowModel::explain_on_cpu(FollowThread& thread, std::int64_t ns) {
    take_unexplained(thread, ns, [&](FollowStack& stack, std::int64_t part_ns) {
        stack.spent.on_cpu_ns += part_ns;
        stack.time_ns += cpu_ ? part_ns : 0;
        thread.spent.on_cpu_ns += part_ns;
        thread.recent.on_cpu_ns += part_ns;
    });
}

void FollowModel::explain_runnable(FollowThread& thread, std::int64_t ns) {
    take_unexplained(thread, ns, [&](FollowStack& stack, std::int64_t part_ns) {
        stack.spent.runnable_ns += part_ns;
        thread.spent.runnable_ns += part_ns;
        thread.recent.runnable_ns += part_ns;
    });
}

void FollowModel::begin_recent() {
    for (FollowThread& thread : threads_) {
        thread.recent = {};
    }
}

}  // namespace echion::where
