#include "cli/forked_children.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

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

void ForkedChildren::Child::update(const ProcessDescent& descent) {
    is_alive = !descent.has_ended;
    counts = counts || (is_alive && measure_life_ns(descent.start_ticks) >= kLeastLifeNs);
}

void ForkedChildren::look(std::span<const Key> parents, bool at_all_threads,
                          std::int64_t until_ns) {
    wants_all_threads_ = wants_all_threads_ || at_all_threads;
    bool has_begun = false;
    do {
        if (!has_work()) {
            if (std::exchange(has_begun, true)) {
                return;
            }
            begin_round(parents, std::exchange(wants_all_threads_, false));
        }
        step();
    } while (monotonic_ns() < until_ns);
}

void ForkedChildren::begin_round(std::span<const Key> parents, bool at_all_threads) {
    if (!at_all_threads) {
        for (const Key& parent : parents) {
            threads_left_.push_back({parent, parent.first});
        }
        return;
    }
    // From the end: the sampled processes first.
    for (const auto& [key, child] : children_) {
        if (child.is_alive) {
            processes_left_.push_back(key);
        }
    }
    processes_left_.insert(processes_left_.end(), parents.rbegin(), parents.rend());
}

void ForkedChildren::step() {
    if (!children_left_.empty()) {
        const ChildOf found = children_left_.back();
        children_left_.pop_back();
        note(found);
    } else if (!threads_left_.empty()) {
        const ThreadOf thread = threads_left_.back();
        threads_left_.pop_back();
        const pid_t parent = thread.process.first;
        if (is_there(thread.process)) {
            (void)for_each_child(parent, thread.tid, [&](pid_t pid) {
                children_left_.push_back({parent, pid});
                return children_left_.size() < kMaxKnown;
            });
        }
    } else if (!processes_left_.empty()) {
        const Key process = processes_left_.back();
        processes_left_.pop_back();
        if (is_there(process)) {
            (void)for_each_thread(process.first, [&](pid_t tid) {
                threads_left_.push_back({process, tid});
                return threads_left_.size() < kMaxKnown;
            });
        }
    }
}

/// What was found under this number, if it is that parent's child still, or known already.
void ForkedChildren::note(const ChildOf& found) {
    const auto descent = read_descent(found.pid);
    if (!descent) {
        return;
    }
    const Key key{found.pid, descent->start_ticks};
    const auto known = children_.find(key);
    if (known == children_.end() && (descent->parent_pid != found.parent || descent->has_ended ||
                                     children_.size() >= kMaxKnown)) {
        return;
    }
    if (!descent->runs_parents_program) {
        if (known != children_.end()) {
            children_.erase(known);
        }
        return;
    }
    children_[key].update(*descent);
}

/// Whether the number is this process's still, and not yet one of a process that has ended. Brings
/// what is known of a child up to date.
bool ForkedChildren::is_there(const Key& process) {
    const auto descent = read_descent(process.first);
    const bool is_same = descent && (process.second == 0 || descent->start_ticks == process.second);
    const auto known = children_.find(process);
    if (known == children_.end()) {
        return is_same;
    }
    if (!is_same) {
        known->second.is_alive = false;
        return false;
    }
    if (!descent->runs_parents_program) {
        children_.erase(known);
        return false;
    }
    known->second.update(*descent);
    return known->second.is_alive;
}

void ForkedChildren::settle() {
    std::vector<Key> known;
    for (const auto& [key, child] : children_) {
        known.push_back(key);
    }
    for (const Key& key : known) {
        (void)is_there(key);
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
