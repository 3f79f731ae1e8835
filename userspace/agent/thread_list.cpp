// The part of StackSampler that follows interpreters and threads as they come and go.

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "agent/stack_sampler.h"
#include "platform/own_thread.h"
#include "platform/thread_clock.h"

namespace echion::agent {
namespace {

using cpython::has;
using cpython::Offset;

// How far into a struct pthread the thread's number is looked for (glibc 2.36, x86-64: 720).
constexpr std::size_t kPthreadBytes = 2048;
// Walks of the list that may leave out a thread that looks alive.
constexpr std::uint32_t kMissesOfTheLiving = 8;

std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

/// Whether the kernel knows a thread of this process by that number: only of such may the clock be
/// read (kernel/time/posix-cpu-timers.c, pid_for_clock()). Where it may not be asked (seccomp), the
/// number is believed.
bool is_own_thread(std::uint32_t native_id) {
    timespec used{};
    return native_id != 0 &&
           (clock_gettime(thread_cpu_clock(native_id), &used) == 0 || errno != EINVAL);
}

}  // namespace

std::size_t StackSampler::find_native_id_offset() {
    // glibc and musl have the kernel's number of the thread in the structure that a pthread_t
    // points to; where, shows in the calling thread's own. 3.8-3.10 keep no other.
    const auto own_id = own_thread_id();
    const auto self = reinterpret_cast<std::uintptr_t>(pthread_self());
    for (std::size_t offset = 0; offset < kPthreadBytes; offset += sizeof(std::uint32_t)) {
        const auto value = reader_.read_value<std::uint32_t>(Address(self + offset));
        if (!value) {
            break;
        }
        if (*value == own_id) {
            return offset;
        }
    }
    return 0;
}

void StackSampler::refresh_interpreters(std::int64_t now_ns) {
    if (python_starts_ != nullptr) {
        if (const std::uint32_t starts = python_starts_->load(); starts != known_starts_) {
            known_starts_ = starts;
            forget_python();
        }
    }
    if (codes_.is_python_new(reader_)) {
        forget_python();
    }
    const cpython::RuntimeLayout& runtime = view_.layout->runtime;
    std::uintptr_t head_now = 0;
    std::uintptr_t main_thread = 0;
    const std::array<ReadRequest, 2> requests{
        {{view_.runtime + at(runtime.interpreters_head), &head_now, sizeof(head_now)},
         {view_.runtime + at(runtime.main_thread), &main_thread, sizeof(main_thread)}}};
    const bool is_readable = reader_.read(requests) == requests.size();
    const Address head(is_readable ? head_now : 0);
    // Finalised (the library may have been closed, too), or started again by another thread.
    const bool has_ended = !head || main_thread != main_thread_id_;
    if (has_ended && interpreter_count_ > 0) {
        tally_.read_failures += !is_readable;
        forget_python();
    }
    const bool is_due = now_ns - lists_walked_ns_ >= kListPeriodNs;
    if (!head || (head == interpreters_head_ && !is_due)) {
        return;
    }
    if (interpreter_count_ == 0) {
        if (!cpython::check_ready(reader_, view_)) {
            return;
        }
        main_thread_id_ = main_thread;
    }
    lists_walked_ns_ = now_ns;
    interpreters_head_ = head;
    std::array<cpython::InterpreterHead, cpython::kMaxInterpreters> heads;
    const auto count = cpython::read_interpreters(reader_, view_, heads);
    if (!count) {
        if (count.error().kind == ErrorKind::kNotReady) {
            forget_python();
        } else {
            ++tally_.read_failures;
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
    bool same = usable == interpreter_count_;
    for (std::size_t i = 0; same && i < usable; ++i) {
        same = heads[i].interpreter == interpreters_[i].head.interpreter &&
               heads[i].id == interpreters_[i].head.id && heads[i].gil == interpreters_[i].head.gil;
    }
    if (!same) {
        replace_interpreters({heads.data(), usable});
    }
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        interpreters_[i].list_changed = true;
    }
}

void StackSampler::replace_interpreters(std::span<const cpython::InterpreterHead> heads) {
    // Threads refer to their interpreter by its place in the list: those of interpreters that are
    // still there move over, the others end.
    std::array<std::uint32_t, cpython::kMaxInterpreters> moved;
    moved.fill(cpython::kMaxInterpreters);
    for (std::uint32_t old = 0; old < interpreter_count_; ++old) {
        for (std::uint32_t i = 0; i < heads.size(); ++i) {
            if (heads[i].interpreter == interpreters_[old].head.interpreter &&
                heads[i].id == interpreters_[old].head.id) {
                moved[old] = i;
            }
        }
        if (moved[old] == cpython::kMaxInterpreters) {
            names_.forget_interpreter(interpreters_[old].head.id);
        }
    }
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (!thread.in_use || thread.has_left) {
            continue;
        }
        const std::uint32_t place = moved[thread.interpreter];
        if (place == cpython::kMaxInterpreters) {
            end_thread(thread);
        } else {
            thread.interpreter = place;
        }
    }
    interpreter_count_ = static_cast<std::uint32_t>(heads.size());
    gil_count_ = 0;
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        std::uint32_t gil = 0;
        while (gil < gil_count_ && gils_[gil].address != heads[i].gil) {
            ++gil;
        }
        if (gil == gil_count_) {
            gils_[gil_count_++] = Gil{heads[i].gil, {}, false, Address(), 0, 0};
        }
        interpreters_[i] = Interpreter{};
        interpreters_[i].head = heads[i];
        interpreters_[i].gil = gil;
    }
    watch_version_counter();
}

void StackSampler::watch_version_counter() {
    // With several interpreters there are several counters.
    Address counter;
    const Offset offset = view_.layout->interpreter.next_version;
    if (interpreter_count_ == 1 && has(offset)) {
        counter = interpreters_[0].head.interpreter + at(offset);
        if (counter - static_from_ >= static_bytes_) {
            counter = Address();  // it may be unmapped
        }
    }
    codes_.set_version_counter(counter);
}

/// From 3.12 on a call into a sub-interpreter makes a thread state, often in the place of the last
/// one's: its GIL, which says who took it last, then says the same as before.
void StackSampler::look_at_lists() {
    const std::size_t head_at = at(view_.layout->interpreter.threads_head);
    batch_.reset();
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        Interpreter& interpreter = interpreters_[i];
        interpreter.threads_head_copy =
            batch_.add(interpreter.head.interpreter + head_at, sizeof(void*));
    }
    batch_.run(reader_);
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        Interpreter& interpreter = interpreters_[i];
        if (const std::byte* copy = batch_.copy(interpreter.threads_head_copy)) {
            interpreter.list_changed |= load_address(copy, 0) != interpreter.threads_head;
        }
    }
}

void StackSampler::walk_thread_list(std::uint32_t index) {
    Interpreter& interpreter = interpreters_[index];
    interpreter.list_changed = false;
    const auto first = cpython::read_threads_head(reader_, view_, interpreter.head.interpreter);
    if (!first) {
        ++tally_.read_failures;
        return;
    }
    interpreter.threads_head = *first;
    const std::uint32_t visit = ++visit_;

    // The states that are known are copied together; the list then mostly leads from one to the
    // next among the copies.
    batch_.reset();
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        thread.state_copy = PageBatch::kNone;
        if (thread.in_use && !thread.has_left && thread.interpreter == index) {
            thread.state_copy = batch_.add(thread.state, at(view_.layout->thread_state.size));
        }
    }
    batch_.run(reader_);

    std::size_t count = 0;
    const bool is_whole = read_thread_list(*first, interpreter.head.interpreter, &count);
    if (!is_whole) {
        // The list changes while it is walked; what does not fit together is left to the next walk.
        ++tally_.read_failures;
        lists_walked_ns_ = kLongAgoNs;
    }
    // Lists begin with the newest. A new state may carry the number of the thread that made it,
    // whose own is older, and is to be known first.
    while (count-- > 0) {
        const auto& [state, head] = listed_[count];
        TrackedThread* thread = threads_.find(state);
        if (thread != nullptr && (thread->head.id != head.id || thread->interpreter != index)) {
            end_thread(*thread);  // another thread's state in the same place
            thread = nullptr;
        }
        if (thread == nullptr) {
            thread = meet_thread(index, state, head);
        }
        if (thread != nullptr) {
            complete(*thread, head);
            thread->visit = visit;
            thread->missed = 0;
            thread->head.prev = head.prev;
            thread->head.next = head.next;
        }
    }
    if (!is_whole) {
        return;
    }
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (thread.in_use && !thread.has_left && thread.interpreter == index &&
            thread.visit != visit) {
            // A list that changes under the walk can leave threads out: those that still look alive
            // get another walk, in the next tick.
            if (is_intact(thread) && ++thread.missed < kMissesOfTheLiving) {
                interpreter.list_changed = true;
            } else {
                end_thread(thread);
            }
        }
    }
    tell_unstarted_cpu();
}

/// The states of one interpreter from `first` on, into listed_. False if it could not be followed
/// to its end: what was read until then counts.
bool StackSampler::read_thread_list(Address first, Address interpreter, std::size_t* count) {
    Address previous;
    for (Address state = first; state;) {
        if (*count == listed_.capacity()) {
            return false;
        }
        const TrackedThread* known = threads_.find(state);
        const std::byte* copy = known != nullptr ? batch_.copy(known->state_copy) : nullptr;
        cpython::ThreadHead head;
        if (copy != nullptr) {
            head = cpython::parse_thread_head(*view_.layout, copy);
        } else if (const auto read = cpython::read_thread_head(reader_, view_, state)) {
            head = *read;
        } else {
            return false;
        }
        if (head.prev != previous || head.interpreter != interpreter) {
            return false;
        }
        listed_[(*count)++] = {state, head};
        previous = state;
        state = head.next;
    }
    return true;
}

bool StackSampler::is_intact(const TrackedThread& thread) {
    const auto head = cpython::read_thread_head(reader_, view_, thread.state);
    if (!head || head->id != thread.head.id || head->interpreter != thread.head.interpreter ||
        head->thread_id != thread.head.thread_id) {
        return false;
    }
    // Freed memory keeps most of what it held, but not its neighbours' links to it.
    const auto link = head->prev
                          ? reader_.read_pointer(head->prev + at(view_.layout->thread_state.next))
                          : cpython::read_threads_head(reader_, view_, head->interpreter);
    return thread.is_main || (link && *link == thread.state);
}

TrackedThread* StackSampler::meet_thread(std::uint32_t interpreter, Address state,
                                         const cpython::ThreadHead& head) {
    TrackedThread* thread = threads_.add(state);
    if (thread == nullptr) {
        ++tally_.table_full;
        return nullptr;
    }
    thread->head = head;
    thread->interpreter = interpreter;
    thread->began_under_watch = counts_from_birth_ || has_ticked_;
    describe_thread(*thread);
    mark(*thread);
    return thread;
}

bool StackSampler::has_begun(const TrackedThread& thread) {
    if (thread.head.thread_id == 0) {
        return false;  // 3.12 and later fill it in when the thread begins
    }
    // A new state carries the number of the thread that made it: with 3.8 to 3.11
    // (Modules/_threadmodule.c, thread_run) until its own begins, which enters its two numbers one
    // after the other; with all of them, if the C API made it, for good.
    return find_owner(thread) == nullptr;
}

/// Another state of the interpreter that has this one's number by right.
TrackedThread* StackSampler::find_owner(const TrackedThread& thread) {
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& other = threads_.slot(i);
        if (&other != &thread && other.in_use && !other.has_left && other.has_begun &&
            !other.is_apart && other.interpreter == thread.interpreter &&
            (other.head.thread_id == thread.head.thread_id ||
             (thread.head.native_id != 0 && other.head.native_id == thread.head.native_id))) {
            return &other;
        }
    }
    return nullptr;
}

/// A thread enters its number before it takes the GIL for the first time: a state that has held it
/// under another one's number is run by a thread that did not make it.
void StackSampler::begin_apart(TrackedThread& thread) {
    thread.has_begun = true;
    thread.is_apart = true;
    thread.is_placed = false;
    set_apart(thread);
    mark(thread);
}

std::uint32_t StackSampler::find_native_id(const cpython::ThreadHead& head) {
    // What CPython has noted (3.11 and later) is the parent's in the child of a fork() by C code,
    // which runs no PyOS_AfterFork_Child(): the C library's own record is right there, too.
    if (is_own_thread(head.native_id)) {
        return head.native_id;
    }
    if (native_id_offset_ == 0 || head.thread_id == 0) {
        return 0;
    }
    const auto id = reader_.read_value<std::uint32_t>(Address(head.thread_id + native_id_offset_));
    return id && is_own_thread(*id) ? *id : 0;
}

void StackSampler::describe_thread(TrackedThread& thread) {
    thread.is_apart = false;
    thread.has_begun = has_begun(thread);
    const bool is_met_now = thread.visit == 0;
    if (!thread.has_begun && is_met_now && thread.head.thread_id != 0) {
        // A thread's own state is older than those that it makes. One of those was met first, as
        // the list changed under the walk: what has been told of it is this thread's.
        TrackedThread* newer = find_owner(thread);
        if (newer != nullptr && newer->head.id > thread.head.id) {
            retract(*newer);
            take_over(*newer, thread);
            newer->has_begun = false;
            newer->native_id = 0;
            newer->cpu_ns = 0;
            newer->is_main = false;
            set_second(*newer, false);
            thread.has_begun = has_begun(thread);
        }
    }
    if (!thread.has_begun) {
        if (thread.has_held_gil && thread.head.thread_id != 0) {
            begin_apart(thread);
        }
        return;
    }
    if (thread.runs_on != thread.head.thread_id && thread.is_announced) {
        retract(thread);  // what the stream has is of another thread
        mark(thread);
    }
    if (thread.runs_on != thread.head.thread_id) {
        thread.name_bytes = 0;
    }
    thread.runs_on = thread.head.thread_id;
    thread.is_placed = false;
    thread.is_main = thread.runs_on == main_thread_id_;
    thread.native_id = find_native_id(thread.head);
    // One that any thread may run with is none's until it is seen to be.
    const bool is_second = can_change_threads(thread) || find_other_state(thread, false) != nullptr;
    if (thread.is_second || !is_second) {
        set_second(thread, is_second);
        thread.is_announced = false;  // to be told again, with its number
    } else {
        watch_.detach(thread);
        suspend(thread);
    }
    if (thread.slot == TrackedThread::kNoSlot && !thread.is_second) {
        watch_.attach(thread);
        unlisted_.take_over(thread, *encoder_);
        succeed_former_state(thread);
    }
    if (thread.slot == TrackedThread::kNoSlot && thread.cpu_ns == 0 && counts_from_birth_ &&
        thread.native_id == static_cast<std::uint32_t>(getpid())) {
        thread.cpu_ns = used_before_ns_;
    }
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        if (i == thread.interpreter || !thread.is_second) {
            names_.forget(interpreters_[i].head.id, thread.runs_on);
        }
    }
}

void StackSampler::complete(TrackedThread& thread, const cpython::ThreadHead& head) {
    // In event mode a thread is read only when the kernel knows whose CPU time it counts: a thread
    // that was met before it had its numbers is described here. One that has been set apart has
    // none, whatever its state says.
    const bool has_new_number =
        thread.native_id == 0 && thread.runs_on == head.thread_id && find_native_id(head) != 0;
    if (!thread.has_begun || has_new_number || head.thread_id != thread.head.thread_id) {
        thread.head.thread_id = head.thread_id;
        thread.head.native_id = head.native_id;
        describe_thread(thread);
    } else if (thread.slot == TrackedThread::kNoSlot && !thread.is_second) {
        watch_.attach(thread);
        unlisted_.take_over(thread, *encoder_);
    }
}

void StackSampler::end_thread(TrackedThread& thread) {
    if (second_count_ > 0 && thread.has_begun && !thread.has_left) {
        settle_end(thread);
    }
    if (thread.is_second) {
        forget_thread(thread);
        return;
    }
    const bool has_no_figures = watch_.is_open() && thread.slot == TrackedThread::kNoSlot;
    if (!options_.cpu_mode || has_no_figures) {
        forget_thread(thread);
    } else if (!thread.has_left) {
        // It has used CPU time since it was last looked at, and goes on for a moment without its
        // Python state: write_all_cpu() settles that.
        thread.has_left = true;
        thread.may_have_changed = false;
        threads_.forget_state(thread);
    }
}

void StackSampler::forget_thread(TrackedThread& thread) {
    stack_starts_.fill({});
    const std::int64_t known_ns = known_until_ns(thread);  // the kernel may know, by its slot
    set_second(thread, false);
    watch_.detach(thread);
    if (thread.is_announced) {
        if (!options_.cpu_mode && now_ns_ - known_ns > longest_gap_ns()) {
            // It has run to its end since.
            encoder_->missed(thread.id, static_cast<std::uint64_t>(
                                            std::max<std::int64_t>(previous_ns_ - known_ns, 0)));
        }
        encoder_->thread_end(thread.id);
    }
    threads_.remove(thread);
}

/// Python has been finalised, or has started anew: nothing that was known of it counts any more, be
/// it at the same place.
void StackSampler::forget_python() {
    stack_starts_.fill({});
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (thread.in_use && !thread.has_left) {
            end_thread(thread);
        }
    }
    interpreter_count_ = 0;
    gil_count_ = 0;
    interpreters_head_ = Address();
    names_.clear();
    codes_.forget();
}

}  // namespace echion::agent
