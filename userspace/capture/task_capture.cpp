#include "capture/task_capture.h"

#include <algorithm>
#include <array>
#include <bit>

namespace echion::capture {
namespace {

using cpython::CoroutineState;

constexpr std::size_t kMaxNameBytes = 256;
// Ranges that are copied for one loop; as many tasks as there may be, of 20 coroutines each, take 6
// million.
constexpr std::size_t kMaxReads = std::size_t{1} << 24;

}  // namespace

Status TaskCapture::reserve_all() {
    if (is_reserved_) {
        return {};
    }
    auto pages = PageCache::make(kMaxPages);
    auto index = AddressMap::make(std::bit_ceil(2 * kMaxTasks));
    auto facts = ReservedArray<cpython::AsyncioTask>::make(kMaxTasks);
    if (!pages || !index || !facts || !reserve()) {
        return fail(ErrorKind::kNoSpace, "reserve memory for tasks");
    }
    pages_ = std::move(*pages);
    index_ = std::move(*index);
    facts_ = std::move(*facts);
    is_reserved_ = true;
    return {};
}

bool TaskCapture::has_loop(MemoryReader& reader, const cpython::Layout& layout, Address state) {
    cpython::ObjectReader objects(reader, layout);
    const auto loop = asyncio_.read_running_loop(objects, state);
    return loop && *loop;
}

TaskCapture::Outcome TaskCapture::read(MemoryReader& reader, const cpython::Layout& layout,
                                       const Place& place, std::size_t max_frames) {
    Outcome out;
    out.first_task = count();
    if (!reserve_all()) {
        out.has_loop = has_loop(reader, layout, place.state);
        out.is_cut = out.has_loop;
        return out;
    }
    pages_.begin();
    asyncio_.forget();
    index_.clear();
    CachedReader cached(pages_, reader, kMaxReads);
    cpython::ObjectReader objects(cached, layout);
    const auto loop = asyncio_.read_running_loop(objects, place.state);
    if (!loop || !*loop || !asyncio_.find(objects, place.modules)) {
        return out;
    }
    out.has_loop = true;
    bool has_room = true;
    const auto visit = [&](Address task) {
        has_room = has_room && add(objects, *loop, task);
        return has_room;
    };
    // Both are walked, whatever the first comes to.
    const Status of_thread = asyncio_.visit_tasks_of_thread(objects, place.state, visit);
    const Status of_interpreter = asyncio_.visit_tasks(objects, place.interpreter, visit);
    out.is_cut = !has_room || !of_thread || !of_interpreter;
    const std::size_t first = out.first_task;
    for (std::size_t i = first; i < count(); ++i) {
        CapturedTask& task = this->task(i);
        const cpython::AsyncioTask& facts = facts_[i - first];
        task.name = keep_name(objects, facts.name);
        read_frames(objects, place.frame_places, max_frames, task, facts.coro);
        if (task.state != TaskState::kRunning && facts.fut_waiter) {
            task.waits_for = index_.find(facts.fut_waiter);
            task.waits_for_type = keep_type_name(objects, facts.fut_waiter);
        }
        out.is_cut = !read_waiters(objects, first, i) || out.is_cut;
    }
    out.is_cut = out.is_cut || cached.is_over();
    out.task_count = count() - first;
    part_running(first);
    return out;
}

/// A task that another one has started on the spot runs on that one's stack (eager tasks): the
/// frames of each end where the next one's begin.
void TaskCapture::part_running(std::size_t first) {
    for (std::size_t i = first; i < count(); ++i) {
        CapturedTask& task = this->task(i);
        if (task.state != TaskState::kRunning) {
            continue;
        }
        const std::size_t end = task.first_frame + task.frame_count;
        std::size_t inner_end = 0;
        for (std::size_t j = first; j < count(); ++j) {
            const CapturedTask& other = this->task(j);
            const std::size_t other_end = other.first_frame + other.frame_count;
            if (other.state == TaskState::kRunning && other_end < end) {
                inner_end = std::max(inner_end, other_end);
            }
        }
        task.first_frame = inner_end;
        task.frame_count = end - inner_end;
    }
}

/// False when there is no room.
bool TaskCapture::add(cpython::ObjectReader& objects, Address loop, Address task) {
    if (!cpython::is_object_address(task) || index_.find(task) != AddressMap::kNone) {
        return true;
    }
    const auto facts = asyncio_.read_task(objects, task);
    if (!facts || facts->is_done || facts->loop != loop) {
        return true;
    }
    const std::size_t known = index_.size();
    const Mark before = mark();
    if (!facts_.grow_to(known + 1) || TaskStore::add(task, TaskKind::kTask) == nullptr ||
        !index_.set(task, static_cast<std::uint32_t>(before.tasks))) {
        go_back(before);
        return false;
    }
    facts_[known] = *facts;
    return true;
}

void TaskCapture::read_frames(cpython::ObjectReader& objects, std::span<const Address> places,
                              std::size_t max_frames, CapturedTask& task, Address coro) {
    const std::span<cpython::RawFrame> out = make_room(max_frames);
    keep_frames(task, 0);
    if (out.empty()) {
        task.is_truncated = true;
        return;
    }
    const cpython::CoroutineChain chain =
        cpython::follow_coroutines(objects, asyncio_.kinds(), coro, out);
    task.is_truncated = chain.truncated;
    task.is_broken = chain.broken;
    const auto* place = std::find(places.data(), places.data() + places.size(), chain.place);
    const auto outermost = static_cast<std::size_t>(place - places.data());
    if (chain.place && outermost != places.size()) {
        task.state = TaskState::kRunning;
        task.is_truncated = task.is_broken = false;
        task.first_frame = 0;
        task.frame_count = outermost + 1;
        return;
    }
    switch (chain.state) {
        case CoroutineState::kExecuting:
            task.state = TaskState::kElsewhere;
            break;
        case CoroutineState::kCreated:
            task.state = TaskState::kNotStarted;
            break;
        case CoroutineState::kSuspended:
            task.state = TaskState::kSuspended;
            break;
        case CoroutineState::kFinished:
            // Of another kind than CPython's own: where it is cannot be told.
            task.state = chain.end ? TaskState::kSuspended : TaskState::kFinished;
            break;
    }
    std::reverse(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(chain.count));
    keep_frames(task, chain.count);
}

TextPiece TaskCapture::keep_name(cpython::ObjectReader& objects, Address name) {
    std::array<char, kMaxNameBytes> into;
    return keep(cpython::Asyncio::read_name(objects, name, into));
}

/// False when not all are known.
bool TaskCapture::read_waiters(cpython::ObjectReader& objects, std::size_t first,
                               std::size_t index) {
    CapturedTask& task = this->task(index);
    begin_waiters(task);
    bool has_room = true;
    const auto take = [&](Address waiter) {
        const std::uint32_t found = index_.find(waiter);
        if (found != AddressMap::kNone && found >= first && found != index) {
            has_room = add_waiter(task, found);
        }
        return has_room;
    };
    return asyncio_.visit_waiters(objects, task.task, take) && has_room;
}

}  // namespace echion::capture
