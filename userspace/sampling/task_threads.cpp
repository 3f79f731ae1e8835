#include "sampling/task_threads.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/clock.h"

namespace echion::sampling {
namespace {

// Tasks between two looks at the clock.
constexpr std::uint32_t kClockTasks = 8;

/// Of 64 bits each: the finalizer of MurmurHash3.
class Hash {
  public:
    explicit Hash(std::uint64_t state = 0xcbf29ce484222325) : state_(state) {}
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
    std::uint64_t state_;
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

/// The ways that lead from above to the task of a record.
void TaskThreads::find_paths(const TaskSweep& sweep, std::uint32_t leaf) {
    path_count_ = 0;
    Path path{{leaf}, 1, false};
    cut_ += !find_paths_above(sweep, path);
}

/// False: there are more ways than there is room for.
bool TaskThreads::find_paths_above(const TaskSweep& sweep, Path& path) {
    bool is_root = true;
    path.is_cut = false;
    for (const std::uint32_t waiter : sweep.waiters(sweep.record(path.records[path.depth - 1]))) {
        const auto end = path.records.begin() + static_cast<std::ptrdiff_t>(path.depth);
        if (sweep.record(waiter).state != TaskSweep::State::kSuspended ||
            std::find(path.records.begin(), end, waiter) != end) {
            continue;  // what runs waits for nothing; and a ring ends
        }
        if (path.depth == kMaxDepth) {
            path.is_cut = true;
            ++cut_;
            break;
        }
        is_root = false;
        path.records[path.depth++] = waiter;
        const bool has_room = find_paths_above(sweep, path);
        --path.depth;
        if (!has_room) {
            return false;
        }
    }
    if (is_root && path_count_ == kMaxPathsOfTask) {
        return false;
    }
    if (is_root) {
        paths_[path_count_++] = path;
    }
    return true;
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
        const TaskSweep::Record& task = sweep.record(path.records[i]);
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

void TaskThreads::publish_task(const TrackedThread& owner, const TaskSweep& sweep,
                               std::span<const stream::FrameRef> prefix, Progress& progress) {
    const Address leaf = sweep.task(progress.next_task).task;
    find_paths(sweep, sweep.task(progress.next_task).own_record);
    for (std::size_t i = 0; i < path_count_; ++i) {
        const Path& path = paths_[i];
        Entry* entry = find(leaf + i, owner.id);  // an object's address is a multiple of more
        if (entry == nullptr) {
            ++cut_;
            continue;
        }
        entry->visit = progress.visit;
        ++progress.count;
        Hash hash(prefix_hash_);
        bool is_broken = false;
        bool is_cut = path.is_cut;
        for (std::size_t j = path.depth; j-- > 0;) {
            const TaskSweep::Record& one = sweep.record(path.records[j]);
            hash.add(sweep.name(one));
            hash.add(sweep.refs(one));
            is_broken = is_broken || one.is_broken;
            is_cut = is_cut || one.is_truncated;
        }
        const bool is_known = entry->is_announced && entry->owner_hash == owner_hash_;
        if (is_known && entry->stack_hash == hash.value() && entry->parts == path_count_) {
            continue;
        }
        is_cut = !compose(sweep, prefix, path) || is_cut;
        if (!is_known) {
            announce(owner, *entry);
            entry->owner_hash = owner_hash_;
            entry->parts = 0;
        }
        if (entry->parts != path_count_) {
            entry->parts = static_cast<std::uint32_t>(path_count_);
            ticks_.encoder().share(id_of(*entry), entry->parts);
        }
        entry->stack_hash = hash.value();
        const auto flags = static_cast<std::uint8_t>((is_cut ? stream::kStackTruncated : 0) |
                                                     (is_broken ? stream::kStackInvalid : 0));
        ticks_.encoder().stack(id_of(*entry), flags, 0,
                               {refs_.data() + first_ref_, refs_.capacity() - first_ref_});
        ticks_.split();
    }
}

bool TaskThreads::publish(const TrackedThread& owner, const TaskSweep& sweep,
                          std::span<const stream::FrameRef> prefix, Progress& progress,
                          std::int64_t until_ns) {
    if (sweep.count() > 0 && !reserve()) {
        ++cut_;
        return true;
    }
    if (progress.visit == 0) {
        progress.visit = ++visit_;
    }
    Hash of_owner;
    of_owner.add(owner.name_view());
    of_owner.add(owner.native_id);
    owner_hash_ = of_owner.value();
    Hash of_prefix;
    of_prefix.add(sweep.numbering());  // equal ids of two numberings say nothing
    of_prefix.add(prefix);
    prefix_hash_ = of_prefix.value();
    for (std::uint32_t done = 0; progress.next_task < sweep.count(); ++progress.next_task) {
        const TaskSweep::Task& task = sweep.task(progress.next_task);
        if (task.is_leaf) {
            if (++done % kClockTasks == 0 && monotonic_ns() >= until_ns) {
                return false;
            }
            publish_task(owner, sweep, prefix, progress);
        }
    }
    for (std::size_t i = 0; i < high_water_; ++i) {
        Entry& entry = entries_[i];
        if (entry.in_use && entry.owner_id == owner.id && entry.visit != progress.visit) {
            remove(entry);
        }
    }
    return true;
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
