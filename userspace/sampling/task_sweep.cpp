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
    auto waiters = ReservedArray<Address>::make(kMaxWaiters);
    auto texts = ReservedArray<char>::make(kMaxTextBytes);
    auto to_cover = ReservedArray<std::uint32_t>::make(kMaxTasks);
    auto raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames + max_frames);
    if (!to_cover || !pages || !index || !tasks || !refs || !waiters || !texts || !raw) {
        return fail(ErrorKind::kNoSpace, "reserve memory for tasks");
    }
    pages_ = std::move(*pages);
    index_ = std::move(*index);
    tasks_ = std::move(*tasks);
    refs_ = std::move(*refs);
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
    steps_ = visits_ = kept_ = raw_count_ = 0;
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

/// Takes in a task that has been come across. False: the step is over.
bool TaskSweep::visit(cpython::ObjectReader& objects, const Place& place,
                      std::span<const Address> places, Address task, std::int64_t until_ns) {
    if (cpython::is_object_address(task) && index_.find(task) == AddressMap::kNone) {
        if (!tasks_.grow_to(task_count_ + 1) ||
            !index_.set(task, static_cast<std::uint32_t>(task_count_))) {
            visits_ = kMaxVisits;  // no room for more
            return false;
        }
        tasks_[task_count_] = {};
        tasks_[task_count_].task = task;
        read_one(objects, place, places, tasks_[task_count_]);
        ++task_count_;
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

void TaskSweep::read_one(cpython::ObjectReader& objects, const Place& place,
                         std::span<const Address> places, Task& task) {
    task.state = State::kGone;
    task.first_ref = static_cast<std::uint32_t>(raw_count_);  // until assign()
    task.first_waiter = static_cast<std::uint32_t>(waiter_count_);
    const auto facts = asyncio_.read_task(objects, task.task);
    if (!facts || facts->is_done || facts->loop != place.loop || !facts->coro) {
        return;
    }
    cpython::RawFrame* frames = raw_.data() + raw_count_;
    const cpython::CoroutineChain chain =
        cpython::follow_coroutines(objects, asyncio_.kinds(), facts->coro, {frames, max_frames_});
    const bool is_on_stack =
        chain.place && std::find(places.begin(), places.end(), chain.place) != places.end();
    if (is_on_stack || chain.state == CoroutineState::kExecuting) {
        task.state = State::kRunning;
    } else if (chain.state == CoroutineState::kFinished && !chain.end) {
        return;
    } else {
        task.state = State::kSuspended;
        task.is_broken = chain.broken;
        task.is_truncated = chain.truncated;
        task.ref_count = static_cast<std::uint32_t>(chain.count);
        std::reverse(frames, frames + chain.count);
        raw_count_ += chain.count;
    }
    std::array<char, TaskLabels::kMaxNameBytes> into;
    const std::string_view name = cpython::Asyncio::read_name(objects, facts->name, into);
    task.name_at = static_cast<std::uint32_t>(text_bytes_);
    if (!name.empty() && texts_.grow_to(text_bytes_ + name.size())) {
        std::memcpy(texts_.data() + text_bytes_, name.data(), name.size());
        task.name_bytes = static_cast<std::uint32_t>(name.size());
        text_bytes_ += name.size();
    }
    read_waiters(objects, task);
}

void TaskSweep::read_waiters(cpython::ObjectReader& objects, Task& task) {
    const bool is_whole = asyncio_.visit_waiters(objects, task.task, [&](Address waiter) {
        const Address* known = waiters_.data() + task.first_waiter;
        if (waiter == task.task ||
            std::find(known, known + task.waiter_count, waiter) != known + task.waiter_count) {
            return true;
        }
        if (task.waiter_count == kMaxWaitersOfTask || !waiters_.grow_to(waiter_count_ + 1)) {
            return false;
        }
        waiters_[waiter_count_++] = waiter;
        ++task.waiter_count;
        return true;
    });
    cut_ += !is_whole;
}

void TaskSweep::assign() {
    if (ref_count_ == 0) {
        numbering_ = codes_.numbering();
    }
    const LastStack none{};
    for (std::size_t i = kept_; i < task_count_; ++i) {
        Task& task = tasks_[i];
        const std::span<cpython::RawFrame> raw(raw_.data() + task.first_ref, task.ref_count);
        const AssignedStack assigned = stack_codes_.assign(none, raw);
        task.first_ref = static_cast<std::uint32_t>(ref_count_);
        task.ref_count = static_cast<std::uint32_t>(assigned.frame_count);
        if (!refs_.grow_to(ref_count_ + task.ref_count)) {
            task.ref_count = 0;
            task.state = State::kGone;
            ++cut_;
        }
        std::copy_n(assigned.refs, task.ref_count, refs_.data() + ref_count_);
        ref_count_ += task.ref_count;
    }
    raw_count_ = 0;
}

void TaskSweep::keep() {
    if (numbering_ != codes_.numbering()) {
        clear();  // ids of before stand for other code objects
        return;
    }
    kept_ = task_count_;
    kept_cursor_ = cursor_;
    kept_waiters_ = waiter_count_;
    kept_text_bytes_ = text_bytes_;
    kept_refs_ = ref_count_;
    if (cursor_.is_done) {
        find_leaves();
    }
}

void TaskSweep::find_leaves() {
    for (std::size_t i = 0; i < waiter_count_; ++i) {
        if (const std::uint32_t waiter = find(waiters_[i]); waiter != kNone) {
            tasks_[waiter].waits_for_task = true;
        }
    }
    for (std::uint32_t i = 0; i < task_count_; ++i) {
        Task& task = tasks_[i];
        task.is_leaf = task.state == State::kSuspended && !task.waits_for_task;
        if (task.is_leaf || task.state == State::kRunning) {
            cover(i);
        }
    }
    for (std::uint32_t i = 0; i < task_count_; ++i) {
        if (tasks_[i].state == State::kSuspended && !tasks_[i].is_covered) {
            tasks_[i].is_leaf = true;
            cover(i);
        }
    }
}

/// Marks a task and all that wait for it, through others or not.
void TaskSweep::cover(std::uint32_t task) {
    std::size_t count = 0;
    const auto push = [&](std::uint32_t index) {
        if (!tasks_[index].is_covered && to_cover_.grow_to(count + 1)) {
            tasks_[index].is_covered = true;
            to_cover_[count++] = index;
        }
    };
    push(task);
    while (count > 0) {
        for (const Address waiter : waiters(tasks_[to_cover_[--count]])) {
            if (const std::uint32_t index = find(waiter); index != kNone) {
                push(index);
            }
        }
    }
}

void TaskSweep::drop() {
    while (task_count_ > kept_) {
        index_.erase(tasks_[--task_count_].task);
    }
    cursor_ = kept_cursor_;
    waiter_count_ = kept_waiters_;
    text_bytes_ = kept_text_bytes_;
    ref_count_ = kept_refs_;
    raw_count_ = 0;
}

}  // namespace echion::sampling
