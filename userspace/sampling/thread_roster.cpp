#include "sampling/thread_roster.h"

#include <algorithm>
#include <array>
#include <utility>

namespace echion::sampling {
namespace {

using cpython::at;
using cpython::has;
using cpython::Offset;

// Walks of the list that may leave out a thread that looks alive.
constexpr std::uint32_t kMissesOfTheLiving = 8;
// How often lists are walked that do not look changed.
constexpr std::int64_t kListPeriodNs = 250'000'000;

}  // namespace

Status ThreadRoster::reserve() {
    auto listed = FixedArray<cpython::ListedState>::make(cpython::kMaxThreadStates);
    if (!listed) {
        return fail(ErrorKind::kNoSpace, "reserve memory for threads");
    }
    listed_ = std::move(*listed);
    return {};
}

void ThreadRoster::start(const ProcessFacts& facts) {
    static_from_ = memory_.view.runtime;
    static_bytes_ = facts.static_bytes;
    python_starts_ = facts.python_starts;
    known_starts_ = python_starts_ != nullptr ? python_starts_->load() : 0;
}

void ThreadRoster::refresh() {
    refresh_interpreters();
    // Where there is one GIL, it tells of a state that is not known.
    if (interpreters_.count() < 2 && !interpreters_.are_free_threaded()) {
        return;
    }
    look_at_lists();
    for (std::uint32_t gil = 0; interpreters_.gil_count() > 1 && gil < interpreters_.gil_count();
         ++gil) {
        walk_changed_lists(gil);  // a thread can have states under several of them
    }
}

bool ThreadRoster::is_unchanged() {
    const auto head = memory_.reader.read_pointer(memory_.view.runtime +
                                                  at(memory_.layout().runtime.interpreters_head));
    return head && *head == interpreters_head_;
}

void ThreadRoster::refresh_interpreters() {
    if (python_starts_ != nullptr) {
        if (const std::uint32_t starts = python_starts_->load(); starts != known_starts_) {
            known_starts_ = starts;
            forget_python();
        }
    }
    if (codes_.is_python_new(memory_.reader)) {
        forget_python();
    }
    const cpython::RuntimeLayout& runtime = memory_.layout().runtime;
    std::uintptr_t head_now = 0;
    std::uintptr_t main_thread = 0;
    const std::array<ReadRequest, 2> requests{
        {{memory_.view.runtime + at(runtime.interpreters_head), &head_now, sizeof(head_now)},
         {memory_.view.runtime + at(runtime.main_thread), &main_thread, sizeof(main_thread)}}};
    const bool is_readable = memory_.reader.read(requests) == requests.size();
    const Address head(is_readable ? head_now : 0);
    // Finalised (the library may have been closed, too), or started again by another thread.
    const bool has_ended = !head || main_thread != main_thread_id_;
    if (has_ended && interpreters_.count() > 0) {
        memory_.read_failures += !is_readable;
        forget_python();
    }
    const bool is_due = ticks_.now_ns() - walked_ns_ >= kListPeriodNs;
    if (!head || (head == interpreters_head_ && !is_due)) {
        return;
    }
    if (interpreters_.count() == 0) {
        if (!cpython::check_ready(memory_.reader, memory_.view)) {
            return;
        }
        main_thread_id_ = main_thread;
        owners_.set_main_thread(main_thread);
    }
    walked_ns_ = ticks_.now_ns();
    interpreters_head_ = head;
    std::array<cpython::InterpreterHead, cpython::kMaxInterpreters> heads;
    const auto count = cpython::read_interpreters(memory_.reader, memory_.view, heads);
    if (!count) {
        if (count.error().kind == ErrorKind::kNotReady) {
            forget_python();
        } else {
            ++memory_.read_failures;
        }
        return;
    }
    // One that is being made is in the list before it has its GIL (CPython 3.12 and later,
    // Python/pylifecycle.c, new_interpreter): the next tick looks again.
    const auto end = std::remove_if(heads.begin(), heads.begin() + *count,
                                    [](const auto& one) { return one.gil.is_null(); });
    const auto usable = static_cast<std::size_t>(end - heads.begin());
    if (usable != *count) {
        interpreters_head_ = Address();
    }
    const std::span<const cpython::InterpreterHead> found(heads.data(), usable);
    if (!interpreters_.are(found)) {
        replace_interpreters(found);
    }
    interpreters_.mark_lists();
}

/// Threads move over with their interpreter; those of one that is gone end.
void ThreadRoster::replace_interpreters(std::span<const cpython::InterpreterHead> heads) {
    const Interpreters::Moves moves = interpreters_.find_moves(heads);
    for (std::uint32_t old = 0; old < interpreters_.count(); ++old) {
        if (moves[old] == Interpreters::kGone) {
            naming_.forget_interpreter(interpreters_[old].head.id);
        }
    }
    for (TrackedThread& thread : threads_.with_state()) {
        const std::uint32_t place = moves[thread.interpreter];
        if (place == Interpreters::kGone) {
            owners_.end(thread);
        } else {
            thread.interpreter = place;
        }
    }
    interpreters_.replace(heads);
    watch_version_counter();
}

void ThreadRoster::watch_version_counter() {
    // With several interpreters there are several counters.
    Address counter;
    const Offset offset = memory_.layout().interpreter.next_version;
    if (interpreters_.count() == 1 && has(offset)) {
        counter = interpreters_[0].head.interpreter + at(offset);
        if (counter - static_from_ >= static_bytes_) {
            counter = Address();  // it may be unmapped
        }
    }
    codes_.set_version_counter(counter);
}

/// From 3.12 on a call into a sub-interpreter makes a thread state, often in the place of the last
/// one's: its GIL, which says who took it last, then says the same as before.
void ThreadRoster::look_at_lists() {
    const std::size_t head_at = at(memory_.layout().interpreter.threads_head);
    memory_.batch.reset();
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        Interpreter& interpreter = interpreters_[i];
        interpreter.threads_head_copy =
            memory_.batch.add(interpreter.head.interpreter + head_at, sizeof(void*));
    }
    memory_.batch.run(memory_.reader);
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        Interpreter& interpreter = interpreters_[i];
        if (const std::byte* copy = memory_.batch.copy(interpreter.threads_head_copy)) {
            interpreter.list_changed |= load_address(copy, 0) != interpreter.threads_head;
        }
    }
}

bool ThreadRoster::walk_changed_lists(std::uint32_t gil_index) {
    bool any = false;
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        if (interpreters_[i].gil == gil_index && interpreters_[i].list_changed) {
            walk_list(i);
            any = true;
        }
    }
    if (owners_.take_wanted_lists()) {
        for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
            if (interpreters_[i].gil != gil_index && interpreters_[i].list_changed) {
                walk_list(i);
            }
        }
    }
    return any;
}

bool ThreadRoster::walk_changed_lists() {
    bool any = false;
    for (std::uint32_t gil = 0; gil < interpreters_.gil_count(); ++gil) {
        any = walk_changed_lists(gil) || any;
    }
    return any;
}

void ThreadRoster::walk_list(std::uint32_t index) {
    Interpreter& interpreter = interpreters_[index];
    interpreter.list_changed = false;
    const std::uint64_t ask = interpreters_.asks();
    const auto first =
        cpython::read_threads_head(memory_.reader, memory_.view, interpreter.head.interpreter);
    if (!first) {
        ++memory_.read_failures;
        walked_ns_ = kLongAgoNs;  // the interpreter has gone, most likely
        return;
    }
    interpreter.threads_head = *first;
    const std::uint32_t visit = ++visit_;

    // The states that are known are copied together; the list then mostly leads from one to the
    // next among the copies.
    memory_.batch.reset();
    for (TrackedThread& thread : threads_.with_state()) {
        thread.copies = {};
        if (thread.interpreter == index) {
            thread.copies.state =
                memory_.batch.add(thread.state, at(memory_.layout().thread_state.size));
        }
    }
    memory_.batch.run(memory_.reader);

    const cpython::ThreadList list = cpython::read_thread_list(
        memory_.reader, memory_.view, interpreter.head.interpreter, *first,
        {listed_.data(), listed_.capacity()}, [&](Address state) -> const std::byte* {
            const TrackedThread* known = threads_.find(state);
            return known == nullptr ? nullptr : memory_.batch.copy(known->copies.state);
        });
    const bool is_whole = list.end == cpython::ListEnd::kWhole;
    if (!is_whole) {
        // The list changes while it is walked; what does not fit together is left to the next walk.
        ++memory_.read_failures;
        walked_ns_ = kLongAgoNs;
        // One that is too long, or never whole, tells no more than this.
        if (++interpreter.torn_walks >= kMissesOfTheLiving) {
            interpreter.walked = ask;
        }
    }
    // Lists begin with the newest. A new state may carry the number of the thread that made it,
    // whose own is older, and is to be known first.
    for (std::size_t i = list.count; i-- > 0;) {
        const auto& [state, head] = listed_[i];
        TrackedThread* thread = threads_.find(state);
        if (thread != nullptr && (thread->head.id != head.id || thread->interpreter != index)) {
            owners_.end(*thread);  // another thread's state in the same place
            thread = nullptr;
        }
        if (thread == nullptr) {
            thread = meet(index, state, head);
        }
        if (thread != nullptr) {
            owners_.update(*thread, head);
            thread->visit = visit;
            thread->missed = 0;
            thread->head.prev = head.prev;
            thread->head.next = head.next;
        }
    }
    if (!is_whole) {
        return;
    }
    interpreter.walked = ask;
    interpreter.torn_walks = 0;
    end_unlisted(index, visit);
    accounts_.write_unstarted();
}

/// Ends the threads of an interpreter that the walk with this number did not meet.
void ThreadRoster::end_unlisted(std::uint32_t index, std::uint32_t visit) {
    for (TrackedThread& thread : threads_.with_state()) {
        if (thread.interpreter != index || thread.visit == visit) {
            continue;
        }
        // A list that changes under the walk can leave threads out: those that still look alive get
        // another walk, in the next tick.
        if (memory_.is_listed(thread) && ++thread.missed < kMissesOfTheLiving) {
            interpreters_[index].list_changed = true;
        } else {
            owners_.end(thread);
        }
    }
}

TrackedThread* ThreadRoster::meet(std::uint32_t interpreter, Address state,
                                  const cpython::ThreadHead& head) {
    TrackedThread* thread = threads_.add(state);
    if (thread == nullptr) {
        ++table_full_;
        return nullptr;
    }
    thread->head = head;
    thread->interpreter = interpreter;
    thread->began_under_watch = accounts_.counts_new_threads();
    owners_.describe(*thread);
    changed_.mark(*thread);
    return thread;
}

/// Python has been finalised, or has started anew: nothing that was known of it counts any more, be
/// it at the same place.
void ThreadRoster::forget_python() {
    for (TrackedThread& thread : threads_.with_state()) {
        owners_.end(thread);
    }
    interpreters_.clear();
    interpreters_head_ = Address();
    naming_.clear();
    codes_.forget();
    tasks_.forget();
    suspended_.forget();
}

}  // namespace echion::sampling
