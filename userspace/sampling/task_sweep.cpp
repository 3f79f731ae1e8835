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
    auto waiters = ReservedArray<std::uint32_t>::make(kMaxWaiters);
    auto texts = ReservedArray<char>::make(kMaxTextBytes);
    auto raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames + max_frames);
    if (!pages || !index || !tasks || !refs || !waiters || !texts || !raw) {
        return fail(ErrorKind::kNoSpace, "reserve memory for tasks");
    }
    pages_ = std::move(*pages);
    index_ = std::move(*index);
    tasks_ = std::move(*tasks);
    refs_ = std::move(*refs);
    waiters_ = std::move(*waiters);
    texts_ = std::move(*texts);
    raw_ = std::move(*raw);
    max_frames_ = max_frames;
    return {};
}

void TaskSweep::clear() {
    has_begun_ = false;
    for (std::size_t i = 0; i < task_count_; ++i) {
        index_.erase(tasks_[i].task);
    }
    task_count_ = next_ = kept_ = 0;
    raw_count_ = 0;
    ref_count_ = kept_refs_ = waiter_count_ = kept_waiters_ = text_bytes_ = kept_text_bytes_ = 0;
}

bool TaskSweep::begin(const Place& place, Address modules) {
    clear();
    pages_.begin();
    asyncio_.begin_look();
    CachedReader cached(pages_, memory_.reader, kMaxReads);
    cpython::ObjectReader objects(cached, memory_.layout());
    if (!asyncio_.find(objects, modules)) {
        return false;
    }
    bool has_room = true;
    const auto visit = [&](Address task) {
        if (!cpython::is_object_address(task) || index_.find(task) != AddressMap::kNone) {
            return true;
        }
        has_room = tasks_.grow_to(task_count_ + 1) &&
                   index_.set(task, static_cast<std::uint32_t>(task_count_));
        if (has_room) {
            tasks_[task_count_++] = {task, State::kUnread, false, false, false, 0, 0, 0, 0, 0, 0};
        }
        return has_room;
    };
    // Both are walked, whatever the first comes to.
    const Status of_thread = asyncio_.visit_tasks_of_thread(objects, place.state, visit);
    const Status of_interpreter = asyncio_.visit_tasks(objects, place.interpreter, visit);
    cut_ += !has_room || !of_thread || !of_interpreter;
    has_begun_ = true;
    return true;
}

void TaskSweep::read(const Place& place, std::span<const Address> places, std::int64_t until_ns) {
    pages_.begin();
    asyncio_.begin_look();
    CachedReader cached(pages_, memory_.reader, kMaxReads);
    cpython::ObjectReader objects(cached, memory_.layout());
    is_step_over_ = false;
    const std::size_t first = next_;
    while (next_ < task_count_ && (next_ == first || monotonic_ns() < until_ns)) {
        read_one(objects, place, places, tasks_[next_]);
        if (is_step_over_) {
            break;  // no room for this one's frames
        }
        ++next_;
    }
    cut_ += cached.is_over();
}

void TaskSweep::read_one(cpython::ObjectReader& objects, const Place& place,
                         std::span<const Address> places, Task& task) {
    task.state = State::kGone;
    task.first_ref = static_cast<std::uint32_t>(raw_count_);  // until keep()
    task.ref_count = 0;
    task.is_broken = task.is_truncated = false;
    task.name_bytes = 0;
    task.first_waiter = static_cast<std::uint32_t>(waiter_count_);
    task.waiter_count = 0;
    const auto facts = asyncio_.read_task(objects, task.task);
    if (!facts || facts->is_done || facts->loop != place.loop || !facts->coro) {
        return;
    }
    const std::size_t room = std::min(max_frames_, raw_.capacity() - raw_count_);
    cpython::RawFrame* frames = raw_.data() + raw_count_;
    const cpython::CoroutineChain chain =
        cpython::follow_coroutines(objects, asyncio_.kinds(), facts->coro, {frames, room});
    if (chain.truncated && room < max_frames_) {
        is_step_over_ = true;
        return;
    }
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
        const std::uint32_t found = index_.find(waiter);
        const std::uint32_t* known = waiters_.data() + task.first_waiter;
        if (found == AddressMap::kNone || &tasks_[found] == &task ||
            std::find(known, known + task.waiter_count, found) != known + task.waiter_count) {
            return true;
        }
        if (task.waiter_count == kMaxWaitersOfTask || !waiters_.grow_to(waiter_count_ + 1)) {
            return false;
        }
        waiters_[waiter_count_++] = found;
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
    for (std::size_t i = kept_; i < next_; ++i) {
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
    for (; kept_ < next_; ++kept_) {
        for (const std::uint32_t waiter : waiters(tasks_[kept_])) {
            tasks_[waiter].waits_for_task = true;
        }
    }
    kept_waiters_ = waiter_count_;
    kept_text_bytes_ = text_bytes_;
    kept_refs_ = ref_count_;
}

void TaskSweep::drop() {
    next_ = kept_;
    waiter_count_ = kept_waiters_;
    text_bytes_ = kept_text_bytes_;
    ref_count_ = kept_refs_;
    raw_count_ = 0;
}

}  // namespace echion::sampling
