#include "cli/forked_children.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "platform/process_info.h"
#include "platform/program_image.h"

namespace echion::cli {
namespace {

/// How long a process has lived; 0 where its clock is another (a time namespace).
std::int64_t measure_life_ns(std::uint64_t start_ticks) {
    const std::int64_t ticks_per_second = sysconf(_SC_CLK_TCK);
    const std::int64_t tick_ns = kNanosPerSecond / std::max<std::int64_t>(ticks_per_second, 1);
    const auto start_ns = static_cast<std::int64_t>(start_ticks) * tick_ns;
    return std::max<std::int64_t>(read_clock_ns(CLOCK_BOOTTIME) - start_ns - tick_ns, 0);
}

}  // namespace

void ForkedChildren::note(pid_t pid) {
    const auto descent = read_descent(pid);
    if (!descent) {
        return;
    }
    const Key key{pid, descent->start_ticks};
    const auto known = children_.find(key);
    if (!descent->runs_parents_program) {
        if (known != children_.end()) {
            children_.erase(known);
        }
        return;
    }
    if (known == children_.end() && (descent->has_ended || children_.size() >= kMaxKnown)) {
        return;
    }
    Child& child = children_[key];
    child.is_alive = !descent->has_ended;
    child.counts =
        child.counts || (child.is_alive && measure_life_ns(descent->start_ticks) >= kLeastLifeNs);
}

void ForkedChildren::look(pid_t parent, bool at_all_threads) {
    const auto take = [this](pid_t child) { note(child); };
    if (!at_all_threads) {
        (void)for_each_child(parent, parent, take);
        return;
    }
    const auto look_at_threads = [&](pid_t pid) {
        (void)for_each_thread(pid, [&](pid_t tid) {
            (void)for_each_child(pid, tid, take);
            return true;
        });
    };
    look_at_threads(parent);
    std::vector<pid_t> known;
    for (const auto& [key, child] : children_) {
        if (child.is_alive) {
            known.push_back(key.first);
        }
    }
    std::ranges::for_each(known, look_at_threads);
}

void ForkedChildren::settle() {
    std::vector<Key> known;
    for (auto& [key, child] : children_) {
        child.is_alive = false;  // unless it is found
        known.push_back(key);
    }
    for (const Key& key : known) {
        note(key.first);
    }
}

std::size_t ForkedChildren::count() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(children_, [](const auto& one) { return one.second.counts; }));
}

std::vector<pid_t> ForkedChildren::list(std::size_t limit) const {
    std::vector<pid_t> pids;
    for (const bool wanted : {true, false}) {
        for (const auto& [key, child] : children_) {
            if (child.counts && child.is_alive == wanted && pids.size() < limit) {
                pids.push_back(key.first);
            }
        }
    }
    return pids;
}

bool ForkedChildren::has_living() const {
    return std::ranges::any_of(
        children_, [](const auto& one) { return one.second.counts && one.second.is_alive; });
}

}  // namespace echion::cli
