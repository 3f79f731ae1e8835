#include "sampling/task_sweep.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "cpython/coroutines.h"

namespace echion::sampling {
namespace {

using cpython::CoroutineState;

// Ranges that are copied in one step: what its bound on time leaves room for, on any machine.
constexpr std::size_t kMaxReads = std::size_t{1} << 20;

}  // namespace

Status TaskSweep::reserve(std::size_t max_frames) {
    auto pages = PageCache::make(kMaxPages);
    auto index = AddressMap::make(std::bit_ceil(2 * kMaxTasks));
    auto tasks = ReservedArray<Task>::make(kMaxTasks);
    auto refs = ReservedArray<stream::FrameRef>::make(kMaxRefs);
    auto records = ReservedArray<Record>::make(kMaxRecords);
    auto waiters = ReservedArray<std::uint32_t>::make(kMaxWaiters);
    auto texts = ReservedArray<char>::make(kMaxTextBytes);
    auto to_cover = ReservedArray<std::uint32_t>::make(kMaxTasks);
    auto raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames + max_frames);
    if (!records || !to_cover || !pages || !index || !tasks || !refs || !waiters || !texts ||
        !raw) {
        return fail(ErrorKind::kNoSpace, "reserve memory for tasks");
    }
    pages_ = std::move(*pages);
    index_ = std::move(*index);
    tasks_ = std::move(*tasks);
    refs_ = std::move(*refs);
    records_ = std::move(*records);
    waiters_ = std::move(*waiters);
    texts_ = std::move(*texts);
    to_cover_ = std::move(*to_cover);
    raw_ = std::move(*raw);
    max_frames_ = max_frames;
    return {};
}

void TaskSweep::clear() {
    has_begun_ = false;
    while (task_count_ > 0) {
        index_.erase(tasks_[--task_count_].task);
    }
    cursor_ = kept_cursor_ = {};
    steps_ = visits_ = raw_count_ = kept_tasks_ = record_count_ = kept_records_ = 0;
    ref_count_ = kept_refs_ = waiter_count_ = kept_waiters_ = text_bytes_ = kept_text_bytes_ = 0;
}

bool TaskSweep::begin(Address modules) {
    if (steps_ == 1 && pages_.page_count() <= kMaxPagesAhead) {
        pages_.begin_ahead(memory_.reader, kMaxPagesAhead);
    } else {
        pages_.begin();
    }
    clear();
    asyncio_.begin_look();
    CachedReader cached(pages_, memory_.reader, kMaxReads);
    cpython::ObjectReader objects(cached, memory_.layout());
    has_begun_ = static_cast<bool>(asyncio_.find(objects, modules));
    return has_begun_;
}

/// The index of a task, new or not; kNone: there is no room.
std::uint32_t TaskSweep::find_or_add(Address task) {
    std::uint32_t index = index_.find(task);
    if (index == kNone && tasks_.grow_to(task_count_ + 1) &&
        index_.set(task, static_cast<std::uint32_t>(task_count_))) {
        index = static_cast<std::uint32_t>(task_count_++);
        tasks_[index] = {task, kNone, kNone, 0, false, false, Cover::kNone};
    }
    return index;
}

/// Takes in a task that has been come across. False: the step is over.
bool TaskSweep::visit(cpython::ObjectReader& objects, const Place& place,
                      std::span<const Address> places, Address task, std::int64_t until_ns) {
    const std::uint32_t index = index_.find(task);
    const bool is_known = index != kNone && tasks_[index].own_record != kNone;
    if (cpython::is_object_address(task) && !is_known) {
        const std::uint32_t record = read_record(objects, place, places, task);
        if (record == kNone) {
            visits_ = kMaxVisits;  // no room for more
            return false;
        }
        tasks_[records_[record].task].own_record = record;
        read_waiters(objects, place, places, record, 0);
    }
    return ++visits_ < kMaxVisits && monotonic_ns() < until_ns &&
           raw_.capacity() - raw_count_ >= max_frames_;
}

void TaskSweep::read(const Place& place, std::span<const Address> places, std::int64_t until_ns) {
    if (steps_++ > 0) {
        pages_.begin();
        asyncio_.begin_look();
    }
    CachedReader cached(pages_, memory_.reader, kMaxReads);
    cpython::ObjectReader objects(cached, memory_.layout());
    const Status status = asyncio_.visit_tasks(
        objects, place.interpreter, place.state, cursor_,
        [&](Address task) { return visit(objects, place, places, task, until_ns); });
    if (visits_ >= kMaxVisits) {
        cursor_.is_done = true;
    }
    cut_ += cached.is_over() || !status || visits_ >= kMaxVisits;
}

/// What this step reads of a task, once; kNone: there is no room.
std::uint32_t TaskSweep::read_record(cpython::ObjectReader& objects, const Place& place,
                                     std::span<const Address> places, Address task) {
    const std::uint32_t index = find_or_add(task);
    if (index == kNone) {
        return kNone;
    }
    Task& known = tasks_[index];
    if (known.step == steps_) {
        return known.newest_record;
    }
    if (!records_.grow_to(record_count_ + 1) || raw_.capacity() - raw_count_ < max_frames_) {
        return kNone;
    }
    const auto record = static_cast<std::uint32_t>(record_count_++);
    records_[record] = {};
    records_[record].task = index;
    known.newest_record = record;
    known.step = steps_;
    fill(objects, place, places, task, records_[record]);
    return record;
}

void TaskSweep::fill(cpython::ObjectReader& objects, const Place& place,
                     std::span<const Address> places, Address task, Record& record) {
    record.state = State::kGone;
    record.first_ref = static_cast<std::uint32_t>(raw_count_);  // until assign()
    const auto facts = asyncio_.read_task(objects, task);
    if (!facts || facts->is_done || facts->loop != place.loop || !facts->coro) {
        return;
    }
    cpython::RawFrame* frames = raw_.data() + raw_count_;
    const cpython::CoroutineChain chain =
        cpython::follow_coroutines(objects, asyncio_.kinds(), facts->coro, {frames, max_frames_});
    const bool is_on_stack =
        chain.place && std::find(places.begin(), places.end(), chain.place) != places.end();
    if (is_on_stack || chain.state == CoroutineState::kExecuting) {
        record.state = State::kRunning;
        return;
    }
    if (chain.state == CoroutineState::kFinished && !chain.end) {
        return;
    }
    record.state = State::kSuspended;
    record.waits_for = facts->fut_waiter;
    record.is_broken = chain.broken;
    record.is_truncated = chain.truncated;
    record.ref_count = static_cast<std::uint32_t>(chain.count);
    std::reverse(frames, frames + chain.count);
    raw_count_ += chain.count;
    std::array<char, TaskLabels::kMaxNameBytes> into;
    const std::string_view name = cpython::Asyncio::read_name(objects, facts->name, into);
    record.name_at = static_cast<std::uint32_t>(text_bytes_);
    if (!name.empty() && texts_.grow_to(text_bytes_ + name.size())) {
        std::memcpy(texts_.data() + text_bytes_, name.data(), name.size());
        record.name_bytes = static_cast<std::uint32_t>(name.size());
        text_bytes_ += name.size();
    }
}

/// Reads those that wait for a task, and for them, up to where nobody waits.
void TaskSweep::read_waiters(cpython::ObjectReader& objects, const Place& place,
                             std::span<const Address> places, std::uint32_t record, int depth) {
    if (records_[record].has_waiters || records_[record].state == State::kGone) {
        return;
    }
    records_[record].has_waiters = true;
    records_[record].first_waiter = static_cast<std::uint32_t>(waiter_count_);
    bool has_room = true;
    const bool is_whole =
        asyncio_.visit_waiters(objects, tasks_[records_[record].task].task, [&](Address waiter) {
            Record& of = records_[record];
            has_room = of.waiter_count < kMaxWaitersOfTask && waiters_.grow_to(waiter_count_ + 1);
            const std::uint32_t found =
                has_room ? read_record(objects, place, places, waiter) : kNone;
            has_room = has_room && found != kNone;
            const std::uint32_t* known = waiters_.data() + of.first_waiter;
            const bool is_new =
                has_room && found != record && records_[found].state != State::kGone &&
                std::find(known, known + of.waiter_count, found) == known + of.waiter_count;
            if (is_new) {
                waiters_[waiter_count_++] = found;
                ++of.waiter_count;
            }
            return has_room;
        });
    cut_ += !is_whole || !has_room;
    for (std::uint32_t i = 0; i < records_[record].waiter_count && depth < kMaxDepth; ++i) {
        read_waiters(objects, place, places, waiters_[records_[record].first_waiter + i],
                     depth + 1);
    }
}

void TaskSweep::assign() {
    if (ref_count_ == 0) {
        numbering_ = codes_.numbering();
    }
    const LastStack none{};
    for (std::size_t i = kept_records_; i < record_count_; ++i) {
        Record& record = records_[i];
        const std::span<cpython::RawFrame> raw(raw_.data() + record.first_ref, record.ref_count);
        const AssignedStack assigned = stack_codes_.assign(none, raw);
        record.first_ref = static_cast<std::uint32_t>(ref_count_);
        record.ref_count = static_cast<std::uint32_t>(assigned.frame_count);
        if (!refs_.grow_to(ref_count_ + record.ref_count)) {
            record.ref_count = 0;
            record.is_broken = true;
            ++cut_;
        }
        std::copy_n(assigned.refs, record.ref_count, refs_.data() + ref_count_);
        ref_count_ += record.ref_count;
    }
    raw_count_ = 0;
}

void TaskSweep::keep() {
    if (numbering_ != codes_.numbering()) {
        clear();  // ids of before stand for other code objects
        return;
    }
    kept_tasks_ = task_count_;
    kept_records_ = record_count_;
    kept_cursor_ = cursor_;
    kept_waiters_ = waiter_count_;
    kept_text_bytes_ = text_bytes_;
    kept_refs_ = ref_count_;
    if (cursor_.is_done) {
        find_leaves();
    }
}

void TaskSweep::drop() {
    while (task_count_ > kept_tasks_) {
        index_.erase(tasks_[--task_count_].task);
    }
    for (std::size_t i = 0; i < task_count_ && record_count_ > kept_records_; ++i) {
        if (tasks_[i].own_record != kNone && tasks_[i].own_record >= kept_records_) {
            tasks_[i].own_record = kNone;
        }
    }
    record_count_ = kept_records_;
    cursor_ = kept_cursor_;
    waiter_count_ = kept_waiters_;
    text_bytes_ = kept_text_bytes_;
    ref_count_ = kept_refs_;
    raw_count_ = 0;
}

/// The task that a task waits for by itself, or kNone.
std::uint32_t TaskSweep::find_waited_for(std::uint32_t task) const {
    const std::uint32_t record = tasks_[task].own_record;
    return record == kNone ? kNone : index_.find(records_[record].waits_for);
}

/// Whether a task waits for one, itself or through others, that leads to a leaf or runs.
bool TaskSweep::waits_for_covered(std::uint32_t task) const {
    std::uint32_t next = find_waited_for(task);
    for (int i = 0; i < kMaxDepth && next != kNone; ++i) {
        if (tasks_[next].cover == Cover::kFull) {
            return true;
        }
        next = find_waited_for(next);
    }
    return false;
}

void TaskSweep::find_leaves() {
    for (std::size_t i = 0; i < waiter_count_; ++i) {
        tasks_[records_[waiters_[i]].task].waits_for_task = true;
    }
    const auto state_of = [&](const Task& task) {
        return task.own_record == kNone ? State::kGone : records_[task.own_record].state;
    };
    // Of those that wait for one task, not all are read.
    for (std::uint32_t i = 0; i < task_count_; ++i) {
        const std::uint32_t waited_for = find_waited_for(i);
        tasks_[i].waits_for_task =
            tasks_[i].waits_for_task || (waited_for != kNone && waited_for != i &&
                                         state_of(tasks_[waited_for]) != State::kGone);
    }
    for (std::uint32_t i = 0; i < task_count_; ++i) {
        Task& task = tasks_[i];
        const State state = state_of(task);
        task.is_leaf = state == State::kSuspended && !task.waits_for_task;
        if (task.is_leaf || state == State::kRunning) {
            cover(i, Cover::kFull);
        }
    }
    // What remains are rings, and what waits for them.
    for (std::uint32_t i = 0; i < task_count_; ++i) {
        if (state_of(tasks_[i]) == State::kSuspended && tasks_[i].cover == Cover::kNone &&
            !waits_for_covered(i)) {
            tasks_[i].is_leaf = true;
            cover(i, Cover::kTried);
        }
    }
    // One that waits for a ring, and is no part of it, has been met before the ring, or else is
    // covered by it: backwards, the ring covers it in either case.
    for (auto i = static_cast<std::uint32_t>(task_count_); i-- > 0;) {
        Task& task = tasks_[i];
        if (task.is_leaf && task.waits_for_task) {
            task.is_leaf = task.cover != Cover::kFull;
            cover(i, Cover::kFull);
        }
    }
}

/// Marks a task and all that wait for it, through others or not.
void TaskSweep::cover(std::uint32_t task, Cover cover) {
    std::size_t count = 0;
    const auto push = [&](std::uint32_t index) {
        if (tasks_[index].cover < cover && to_cover_.grow_to(count + 1)) {
            tasks_[index].cover = cover;
            to_cover_[count++] = index;
        }
    };
    push(task);
    while (count > 0) {
        const std::uint32_t record = tasks_[to_cover_[--count]].own_record;
        for (std::size_t i = 0; record != kNone && i < records_[record].waiter_count; ++i) {
            push(records_[waiters_[records_[record].first_waiter + i]].task);
        }
    }
}

}  // namespace echion::sampling
