#include "sampling/task_threads.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace echion::sampling {
namespace {

/// Of 64 bits each: the finalizer of MurmurHash3.
class Hash {
  public:
    void add(std::uint64_t value) {
        state_ = (state_ ^ value) * 0xff51afd7ed558ccd;
        state_ ^= state_ >> 33;
    }
    void add(std::span<const stream::FrameRef> refs) {
        for (const stream::FrameRef& ref : refs) {
            add(std::uint64_t{ref.code_id} << 32U | static_cast<std::uint32_t>(ref.offset));
        }
    }
    void add(std::string_view text) {
        for (const char c : text) {
            add(static_cast<unsigned char>(c));
        }
        add(text.size());
    }
    [[nodiscard]] std::uint64_t value() const { return state_; }

  private:
    std::uint64_t state_ = 0xcbf29ce484222325;
};

}  // namespace

bool TaskThreads::reserve() {
    if (is_reserved_) {
        return true;
    }
    auto index = AddressMap::make(std::bit_ceil(2 * kMaxPaths));
    auto entries = ReservedArray<Entry>::make(kMaxPaths);
    auto refs = FixedArray<stream::FrameRef>::make(options_.max_frames);
    if (!index || !entries || !refs) {
        return false;
    }
    index_ = std::move(*index);
    entries_ = std::move(*entries);
    refs_ = std::move(*refs);
    is_reserved_ = true;
    return true;
}

/// The ways that lead to `leaf` from above.
void TaskThreads::find_paths(const TaskSweep& sweep, std::uint32_t leaf) {
    path_count_ = 0;
    Path path{{leaf}, 1};
    find_paths_above(sweep, path);
}

void TaskThreads::find_paths_above(const TaskSweep& sweep, Path& path) {
    bool is_root = true;
    if (path.depth < kMaxDepth) {
        for (const std::uint32_t waiter : sweep.waiters(sweep.task(path.tasks[path.depth - 1]))) {
            const auto end = path.tasks.begin() + static_cast<std::ptrdiff_t>(path.depth);
            if (sweep.task(waiter).state != TaskSweep::State::kSuspended ||
                std::find(path.tasks.begin(), end, waiter) != end) {
                continue;  // what runs waits for nothing; and a ring ends
            }
            is_root = false;
            path.tasks[path.depth++] = waiter;
            find_paths_above(sweep, path);
            --path.depth;
            if (path_count_ == kMaxPathsOfTask) {
                return;
            }
        }
    } else {
        ++cut_;
    }
    if (is_root) {
        paths_[path_count_++] = path;
    }
}

/// Puts a way into refs_, from its innermost frame up. False: it is cut at its root.
bool TaskThreads::compose(const TaskSweep& sweep, std::span<const stream::FrameRef> prefix,
                          const Path& path) {
    first_ref_ = refs_.capacity();
    const auto push = [&](std::span<const stream::FrameRef> refs) {
        const std::size_t count = std::min(refs.size(), first_ref_);
        std::copy(refs.end() - static_cast<std::ptrdiff_t>(count), refs.end(),
                  refs_.data() + first_ref_ - count);
        first_ref_ -= count;
        return count == refs.size();
    };
    for (std::size_t i = 0; i < path.depth; ++i) {
        const TaskSweep::Task& task = sweep.task(path.tasks[i]);
        const Address label = labels_.frame_of(sweep.name(task)).code;
        const stream::FrameRef ref{labels_.find_id(ticks_, label), 0};
        if (!push(sweep.refs(task)) || !push({&ref, 1})) {
            return false;
        }
    }
    return push(prefix);
}

TaskThreads::Entry* TaskThreads::find(Address key, std::uint32_t owner_id) {
    const std::uint32_t place = index_.find(key);
    if (place != AddressMap::kNone) {
        Entry& entry = entries_[place];
        if (entry.owner_id != owner_id) {
            return nullptr;  // another thread's, which has not been looked at since
        }
        return &entry;
    }
    while (free_hint_ < high_water_ && entries_[free_hint_].in_use) {
        ++free_hint_;
    }
    if (!entries_.grow_to(free_hint_ + 1) ||
        !index_.set(key, static_cast<std::uint32_t>(free_hint_))) {
        return nullptr;
    }
    high_water_ = std::max(high_water_, free_hint_ + 1);
    Entry& entry = entries_[free_hint_++];
    entry = {};
    entry.key = key;
    entry.owner_id = owner_id;
    entry.in_use = true;
    return &entry;
}

void TaskThreads::announce(const TrackedThread& owner, Entry& entry) {
    const std::uint32_t id = id_of(entry);
    ticks_.encoder().thread(id, interpreters_.of(owner).head.id, owner.native_id,
                            owner.name_view());
    if (entry.was_announced && ticks_.last_look_ns() > entry.void_look_ns) {
        ticks_.encoder().missed(
            id, static_cast<std::uint64_t>(ticks_.last_look_ns() - entry.void_look_ns));
    }
    entry.is_announced = true;
    entry.was_announced = false;
}

std::size_t TaskThreads::publish(const TrackedThread& owner, const TaskSweep& sweep,
                                 std::span<const stream::FrameRef> prefix) {
    ++visit_;
    if (sweep.count() > 0 && !reserve()) {
        ++cut_;
        return 0;
    }
    std::size_t count = 0;
    Hash of_owner;
    of_owner.add(owner.name_view());
    of_owner.add(owner.native_id);
    Hash of_prefix;
    of_prefix.add(prefix);
    for (std::uint32_t leaf = 0; leaf < sweep.count(); ++leaf) {
        const TaskSweep::Task& task = sweep.task(leaf);
        if (task.state != TaskSweep::State::kSuspended || task.waits_for_task) {
            continue;
        }
        find_paths(sweep, leaf);
        cut_ += path_count_ == kMaxPathsOfTask;
        for (std::size_t i = 0; i < path_count_; ++i) {
            const Path& path = paths_[i];
            Entry* entry = find(task.task + i, owner.id);  // an object's address is even more
            if (entry == nullptr) {
                ++cut_;
                continue;
            }
            entry->visit = visit_;
            ++count;
            Hash hash = of_prefix;
            bool is_broken = false;
            bool is_cut = false;
            for (std::size_t j = path.depth; j-- > 0;) {
                const TaskSweep::Task& one = sweep.task(path.tasks[j]);
                hash.add(sweep.name(one));
                hash.add(sweep.refs(one));
                is_broken = is_broken || one.is_broken;
                is_cut = is_cut || one.is_truncated;
            }
            hash.add(path_count_);
            if (entry->is_announced && entry->stack_hash == hash.value() &&
                entry->owner_hash == of_owner.value()) {
                continue;
            }
            is_cut = !compose(sweep, prefix, path) || is_cut;
            if (!entry->is_announced || entry->owner_hash != of_owner.value()) {
                announce(owner, *entry);
                entry->parts = 0;
            }
            if (entry->parts != path_count_) {
                entry->parts = static_cast<std::uint32_t>(path_count_);
                ticks_.encoder().share(id_of(*entry), entry->parts);
            }
            entry->stack_hash = hash.value();
            entry->owner_hash = of_owner.value();
            const auto flags = static_cast<std::uint8_t>((is_cut ? stream::kStackTruncated : 0) |
                                                         (is_broken ? stream::kStackInvalid : 0));
            ticks_.encoder().stack(id_of(*entry), flags, 0,
                                   {refs_.data() + first_ref_, refs_.capacity() - first_ref_});
            ticks_.split();
        }
    }
    for (std::size_t i = 0; i < high_water_; ++i) {
        Entry& entry = entries_[i];
        if (entry.in_use && entry.owner_id == owner.id && entry.visit != visit_) {
            remove(entry);
        }
    }
    return count;
}

void TaskThreads::write_missed(const TrackedThread& owner, std::uint64_t ns) {
    for (std::size_t i = 0; i < high_water_; ++i) {
        const Entry& entry = entries_[i];
        if (entry.in_use && entry.is_announced && entry.owner_id == owner.id) {
            ticks_.encoder().missed(id_of(entry), ns);
            ticks_.split();
        }
    }
}

void TaskThreads::remove(Entry& entry) {
    if (entry.is_announced) {
        ticks_.encoder().thread_end(id_of(entry));
        ticks_.split();
    }
    index_.erase(entry.key);
    entry.in_use = false;
    free_hint_ = std::min(free_hint_, static_cast<std::size_t>(&entry - entries_.data()));
}

void TaskThreads::end(std::uint32_t owner_id) {
    for (std::size_t i = 0; i < high_water_; ++i) {
        if (entries_[i].in_use && entries_[i].owner_id == owner_id) {
            remove(entries_[i]);
        }
    }
}

void TaskThreads::forget_announcements() {
    for (std::size_t i = 0; i < high_water_; ++i) {
        Entry& entry = entries_[i];
        if (entry.in_use && entry.is_announced) {
            entry.is_announced = false;
            entry.was_announced = true;
            entry.void_look_ns = ticks_.now_ns();
        }
    }
}

}  // namespace echion::sampling
