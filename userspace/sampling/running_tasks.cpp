#include "sampling/running_tasks.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cpython/coroutines.h"
#include "cpython/dicts.h"
#include "sampling/round_reader.h"

namespace echion::sampling {
namespace {

using cpython::at;
using cpython::has;

// Event loops that run at the same time, in different threads, and are looked at.
constexpr std::size_t kMaxLoops = 64;

}  // namespace

Status RunningTasks::reserve(std::size_t max_frames, bool is_wanted) {
    is_wanted_ = is_wanted;
    auto composed = FixedArray<cpython::RawFrame>::make(max_frames);
    auto chain = FixedArray<cpython::RawFrame>::make(max_frames);
    if (!composed || !chain) {
        return fail(ErrorKind::kNoSpace, "reserve memory for tasks");
    }
    composed_ = std::move(*composed);
    chain_ = std::move(*chain);
    return {};
}

void RunningTasks::forget() {
    modules_ = {};
    has_met_tasks_ = false;
    looked_ns_ = 0;
    asyncio_.forget();
}

bool RunningTasks::look(std::int64_t now_ns) {
    const cpython::Layout& layout = memory_.layout();
    if (!is_wanted_ || has(layout.thread_state.asyncio_running_task) ||
        (looked_ns_ != 0 && now_ns - looked_ns_ < kLookAgainNs)) {
        return false;
    }
    looked_ns_ = now_ns;
    bool is_new = false;
    cpython::ObjectReader objects(memory_.reader, layout);
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        const Address interpreter = interpreters_[i].head.interpreter;
        if (modules_[i].interpreter != interpreter) {
            modules_[i] = {interpreter, {}, 0};
        }
        const auto modules =
            memory_.reader.read_pointer(interpreter + at(layout.interpreter.modules));
        const auto count =
            modules && *modules
                ? memory_.reader.read_value<std::intptr_t>(*modules + at(layout.dict.ma_used))
                : Result<std::intptr_t>(0);
        if (count && *count != modules_[i].modules) {
            modules_[i].modules = *count;
            const auto found = asyncio_.find_current_tasks(objects, *modules);
            const Address known = modules_[i].current_tasks;
            modules_[i].current_tasks = found ? *found : Address();
            is_new = is_new || (modules_[i].current_tasks && modules_[i].current_tasks != known);
            if (found && !*found) {
                modules_[i].modules = 0;  // it is still being imported
            }
        }
    }
    return is_new;
}

void RunningTasks::add_running(cpython::ObjectReader& objects, Address task,
                               std::span<const Address> places) {
    const auto facts = asyncio_.read_task(objects, task);
    if (!facts || running_count_ == running_.size()) {
        return;
    }
    // Mostly the first of its coroutines is there. But up to 3.8 throw(), and close() in any
    // version, run an inner one by itself (CPython Objects/genobject.c, _gen_throw(), gen_close()).
    Running& found = running_[running_count_];
    found = {task, facts->name, places.size(), {}, 0};
    Address object = facts->coro;
    for (std::size_t step = 0; object && step < kMaxChain; ++step) {
        const cpython::TypeKind kind = asyncio_.kinds().find(objects, object);
        if (kind == cpython::TypeKind::kDriver) {
            const auto driven =
                objects.memory().read_pointer(object + at(objects.layout().object.size));
            object = driven ? *driven : Address();
            continue;
        }
        if (!cpython::is_coroutine(kind)) {
            return;
        }
        const auto coroutine = cpython::read_coroutine(objects, object);
        if (!coroutine || !coroutine->place) {
            return;
        }
        const auto* place =
            std::find(places.data(), places.data() + places.size(), coroutine->place);
        found.outermost = static_cast<std::size_t>(place - places.data());
        if (found.outermost != places.size()) {
            ++running_count_;
            return;
        }
        if (coroutine->state != cpython::CoroutineState::kSuspended) {
            return;
        }
        found.skipped[found.skipped_count++] = coroutine->frame;
        object = coroutine->awaits;
    }
}

bool RunningTasks::has_asyncio(const TrackedThread& thread) const {
    const Module& module = modules_[thread.interpreter];
    return has(memory_.layout().thread_state.asyncio_running_task) ||
           (module.current_tasks &&
            module.interpreter == interpreters_.of(thread).head.interpreter);
}

/// Whether any task may run in the thread: all that is asked of one that runs none, one read at
/// most.
bool RunningTasks::may_run(MemoryReader& reader, const TrackedThread& thread) const {
    const cpython::Layout& layout = memory_.layout();
    if (has(layout.thread_state.asyncio_running_task)) {
        const auto task =
            reader.read_pointer(thread.state + at(layout.thread_state.asyncio_running_task));
        return task && *task;
    }
    const Module& module = modules_[thread.interpreter];
    if (!module.current_tasks || module.interpreter != interpreters_.of(thread).head.interpreter) {
        return false;
    }
    const auto used =
        reader.read_value<std::intptr_t>(module.current_tasks + at(layout.dict.ma_used));
    return used && *used > 0;
}

std::size_t RunningTasks::find_running(cpython::ObjectReader& objects, const TrackedThread& thread,
                                       std::span<const Address> places) {
    const cpython::Layout& layout = memory_.layout();
    running_count_ = 0;
    if (has(layout.thread_state.asyncio_running_task)) {
        const auto task = objects.memory().read_pointer(
            thread.state + at(layout.thread_state.asyncio_running_task));
        if (task && *task) {
            add_running(objects, *task, places);
        }
        return running_count_;
    }
    const auto view = cpython::DictView::read(objects, modules_[thread.interpreter].current_tasks);
    std::array<cpython::DictView::Entry, kMaxLoops> entries;
    const auto count = view ? view->read_entries(objects, 0, entries) : std::size_t{0};
    for (std::size_t i = 0; count && i < *count; ++i) {
        if (entries[i].value) {
            add_running(objects, entries[i].value, places);
        }
    }
    return running_count_;
}

bool RunningTasks::push(const cpython::RawFrame& frame) {
    if (composed_count_ == composed_.capacity()) {
        return false;
    }
    composed_[composed_count_++] = frame;
    return true;
}

bool RunningTasks::push_label(cpython::ObjectReader& objects, Address name) {
    std::array<char, TaskLabels::kMaxNameBytes> text;
    return push(labels_.frame_of(asyncio_.read_name(objects, name, text)));
}

/// The tasks that wait for `task`, the outermost first, each with its coroutines. False: no room.
bool RunningTasks::push_waiters(cpython::ObjectReader& objects, Address task,
                                std::span<const Address> places) {
    std::array<Address, kMaxChain> waiting;
    std::size_t depth = 0;
    Address awaited = task;
    while (depth < waiting.size()) {
        std::array<Address, kMaxWaiters> waiters;
        std::size_t count = 0;
        const bool is_whole = asyncio_.visit_waiters(objects, awaited, [&](Address waiter) {
            const bool is_known =
                waiter == task ||
                std::find(waiting.data(), waiting.data() + depth, waiter) !=
                    waiting.data() + depth ||
                std::find(waiters.data(), waiters.data() + count, waiter) != waiters.data() + count;
            if (!is_known) {
                waiters[count++] = waiter;
            }
            return count < waiters.size();
        });
        is_whole_ = is_whole_ && is_whole;
        if (count == 0) {
            break;
        }
        awaited = waiters[count == 1 ? 0 : turn_++ % count];
        waiting[depth++] = awaited;
    }
    is_whole_ = is_whole_ && depth < waiting.size();
    while (depth-- > 0) {
        const auto facts = asyncio_.read_task(objects, waiting[depth]);
        if (!facts || !facts->coro) {
            is_whole_ = false;
            continue;
        }
        const cpython::CoroutineChain chain = cpython::follow_coroutines(
            objects, asyncio_.kinds(), facts->coro, {chain_.data(), chain_.capacity()});
        if (chain.state == cpython::CoroutineState::kExecuting ||
            std::find(places.begin(), places.end(), chain.place) != places.end()) {
            continue;  // it is on the stack by itself
        }
        is_whole_ = is_whole_ && !chain.broken && !chain.truncated;
        bool has_room = push_label(objects, facts->name);
        for (std::size_t i = 0; i < chain.count && has_room; ++i) {
            has_room = push(chain_[i]);
        }
        if (!has_room) {
            return false;
        }
    }
    return true;
}

RunningTasks::Inserted RunningTasks::insert(TrackedThread& thread, std::span<cpython::RawFrame> raw,
                                            std::span<const Address> places) {
    const Inserted none{places.size()};
    if (places.empty()) {
        return none;
    }
    RoundReader round(memory_, thread);
    if (!is_wanted_ || !may_run(round, thread)) {
        return none;
    }
    cpython::ObjectReader objects(round, memory_.layout());
    asyncio_.begin_look();
    is_whole_ = true;
    if (find_running(objects, thread, places) == 0) {
        cut_ += !is_whole_ || round.is_over();
        return none;
    }
    has_met_tasks_ = true;
    std::sort(running_.data(), running_.data() + running_count_,
              [](const Running& a, const Running& b) { return a.outermost > b.outermost; });
    composed_count_ = 0;
    bool has_room = true;
    std::size_t next = places.size();  // frames from here on to the root are composed
    for (std::size_t i = 0; i < running_count_ && has_room; ++i) {
        while (next > running_[i].outermost + 1 && has_room) {
            has_room = push(raw[--next]);
        }
        has_room = has_room && (i > 0 || push_waiters(objects, running_[i].task, places)) &&
                   push_label(objects, running_[i].name);
        for (std::size_t j = 0; j < running_[i].skipped_count && has_room; ++j) {
            has_room = push(running_[i].skipped[j]);
        }
    }
    while (next > 0 && has_room) {
        has_room = push(raw[--next]);
    }
    cut_ += !is_whole_ || round.is_over();
    if (!has_room || composed_count_ > raw.size()) {
        return {places.size(), true, true};
    }
    std::reverse_copy(composed_.data(), composed_.data() + composed_count_, raw.data());
    return {composed_count_, false, true};
}

}  // namespace echion::sampling
