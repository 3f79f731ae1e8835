#include "sampling/thread_owners.h"

#include <utility>

#include "platform/thread_record.h"

namespace echion::sampling {

bool ThreadOwners::has_begun(const TrackedThread& thread) {
    if (thread.head.thread_id == 0) {
        return false;  // 3.12 and later fill it in when the thread begins
    }
    // A new state carries the number of the thread that made it: with 3.8 to 3.11
    // (Modules/_threadmodule.c, thread_run) until its own begins, which enters its two numbers one
    // after the other; with all of them, if the C API made it, for good.
    return find_owner(thread) == nullptr;
}

/// Another state of the interpreter that has this one's number by right.
TrackedThread* ThreadOwners::find_owner(const TrackedThread& thread) {
    for (TrackedThread& other : threads_.with_state()) {
        if (&other != &thread && other.has_begun && !other.is_apart &&
            other.interpreter == thread.interpreter &&
            (other.head.thread_id == thread.head.thread_id ||
             (thread.head.native_id != 0 && other.head.native_id == thread.head.native_id))) {
            return &other;
        }
    }
    return nullptr;
}

/// A thread enters its number before it takes the GIL for the first time: a state that has held it
/// under another one's number is run by a thread that did not make it.
void ThreadOwners::begin_apart(TrackedThread& thread) {
    thread.has_begun = true;
    thread.is_apart = true;
    thread.is_placed = false;
    set_apart(thread);
    changed_.mark(thread);
}

/// A thread's own state, met now, is older than those that the thread makes. If one of those was
/// met first, as the list changed under the walk, what has been told of it is this thread's.
void ThreadOwners::take_from_newer(TrackedThread& thread) {
    TrackedThread* newer = find_owner(thread);
    if (newer == nullptr || newer->head.id <= thread.head.id) {
        return;
    }
    retract(*newer);
    take_over(*newer, thread);
    newer->has_begun = false;
    newer->native_id = 0;
    newer->cpu_ns = 0;
    newer->is_main = false;
    threads_.set_second(*newer, false);
    thread.has_begun = has_begun(thread);
}

/// A thread's number is given to another one when it has ended. A state that has it by right and
/// is not listed any more is of such a thread, which the walk of its list has yet to end: what is
/// known under that number, the name and the account, is not that of the thread of this state.
bool ThreadOwners::waits_for_end_of_former(const TrackedThread& thread) {
    bool waits = false;
    for (const TrackedThread& other : threads_.with_state()) {
        if (&other != &thread && other.has_begun && other.interpreter != thread.interpreter &&
            other.head.thread_id == thread.head.thread_id &&
            other.runs_on == thread.head.thread_id && !memory_.is_listed(other)) {
            interpreters_.of(other).list_changed = true;
            waits = true;
        }
    }
    return waits;
}

void ThreadOwners::describe(TrackedThread& thread) {
    if (interpreters_.count() > 1 && thread.head.thread_id != 0 &&
        waits_for_end_of_former(thread)) {
        thread.has_begun = false;
        interpreters_.of(thread).list_changed = true;  // to be described when the others are known
        wants_lists_ = true;
        return;
    }
    thread.is_apart = false;
    thread.has_begun = has_begun(thread);
    if (!thread.has_begun && thread.visit == 0 && thread.head.thread_id != 0) {
        take_from_newer(thread);
    }
    if (!thread.has_begun) {
        const bool has_run = thread.has_held_gil && thread.head.thread_id != 0;
        const TrackedThread* owner = has_run ? find_owner(thread) : nullptr;
        if (owner != nullptr && memory_.is_listed(*owner)) {
            begin_apart(thread);
        } else if (owner != nullptr) {
            interpreters_.of(thread).list_changed = true;  // that one has ended
        }
        return;
    }
    if (thread.runs_on != thread.head.thread_id && thread.is_announced) {
        retract(thread);  // what the stream has is of another thread
        changed_.mark(thread);
    }
    if (thread.runs_on != thread.head.thread_id) {
        thread.name_bytes = 0;
    }
    thread.runs_on = thread.head.thread_id;
    thread.is_placed = false;
    thread.is_main = thread.runs_on == main_thread_id_;
    thread.native_id = native_ids_.find(memory_.reader, thread.head);
    // One that any thread may run with is none's until it is seen to be.
    const bool is_second =
        can_change_threads(thread) || threads_.find_other_state(thread, false) != nullptr;
    if (thread.is_second || !is_second) {
        threads_.set_second(thread, is_second);
        thread.is_announced = false;  // to be told again, with its number
    } else {
        accounts_.detach(thread);
        suspend(thread);
    }
    accounts_.open(thread);
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        if (i == thread.interpreter || !thread.is_second) {
            naming_.forget(interpreters_[i].head.id, thread.runs_on);
        }
    }
}

void ThreadOwners::update(TrackedThread& thread, const cpython::ThreadHead& head) {
    // In event mode a thread is read only when the kernel knows whose CPU time it counts: a thread
    // that was met before it had its numbers is described here. One that has been set apart has
    // none, whatever its state says.
    const bool has_new_number = thread.native_id == 0 && thread.runs_on == head.thread_id &&
                                native_ids_.find(memory_.reader, head) != 0;
    if (!thread.has_begun || has_new_number || head.thread_id != thread.head.thread_id) {
        thread.head.thread_id = head.thread_id;
        thread.head.native_id = head.native_id;
        const bool had_begun = thread.has_begun;
        describe(thread);
        if (thread.has_begun && !had_begun) {
            changed_.mark(thread);  // it may have had its stack for some time
        }
    } else if (thread.slot == TrackedThread::kNoSlot && !thread.is_second) {
        accounts_.attach(thread);
    }
}

void ThreadOwners::end(TrackedThread& thread) {
    if (threads_.second_count() > 0 && thread.has_begun && !thread.has_left) {
        settle_end(thread);
    }
    // The next thread with that pthread_t may be met by its state in another interpreter first.
    naming_.forget(interpreters_.of(thread).head.id, thread.head.thread_id);
    if (thread.is_second) {
        writer_.forget(thread);
        return;
    }
    if (!options_.cpu_mode || !accounts_.has_clock(thread)) {
        writer_.forget(thread);
    } else if (!thread.has_left) {
        // It has used CPU time since it was last looked at, and goes on for a moment without its
        // Python state: CpuAccounts::write_all() settles that.
        thread.has_left = true;
        thread.may_have_changed = false;
        threads_.forget_state(thread);
    }
}

/// A thread enters its number before it takes the GIL: see begin_apart(). `now` was read after the
/// state was found, which another thread had made that held the GIL: so it is not what an earlier
/// state in the same place has left there.
void ThreadOwners::note_holder(const Gil& gil, const cpython::GilState& now) {
    TrackedThread* thread = threads_.find(now.last_holder);
    if (thread == nullptr) {
        return;
    }
    if (!thread->has_begun && !thread->has_held_gil) {
        thread->has_held_gil = true;
        interpreters_.of(*thread).list_changed = true;
    }
    const bool has_taken_it = gil.is_known && gil.sampled.last_holder != now.last_holder;
    if (thread->has_begun && !thread->is_second && has_taken_it && can_change_threads(*thread) &&
        thread->slot != TrackedThread::kNoSlot && !thread->has_run) {
        displace(*thread);  // another thread has run with it
    }
}

void ThreadOwners::retract(TrackedThread& thread) {
    naming_.name_at_last(thread);
    writer_.end(thread);
    thread.stack.must_resend = true;
}

void ThreadOwners::suspend(TrackedThread& thread) {
    threads_.set_second(thread, true);
    retract(thread);
}

void ThreadOwners::settle_end(TrackedThread& thread) {
    TrackedThread* other = threads_.find_other_state(thread, !thread.is_second);
    if (other == nullptr) {
        return;
    }
    const bool ends_with_it = can_change_threads(*other) && !can_change_threads(thread);
    if (ends_with_it) {
        make_current(thread);  // a thread ends where it began
        for (TrackedThread& lent : threads_.with_state()) {
            if (lent.has_begun && lent.runs_on == thread.runs_on && can_change_threads(lent)) {
                forget_place(lent);
            }
        }
    } else if (!thread.is_second && !ends_with_it) {
        note_frames(thread, 0);  // it goes on in another interpreter: where it has frames
        if (!thread.is_second) {
            make_current(*other);
        }
    }
}

void ThreadOwners::make_current(TrackedThread& thread) {
    if (!thread.is_second || !thread.has_begun) {
        return;
    }
    if (TrackedThread* before = threads_.find_other_state(thread, false)) {
        take_over(*before, thread);
        suspend(*before);
    } else {
        start_account(thread);
    }
    threads_.set_second(thread, false);
    thread.times_between = 0;
    thread.stack.must_resend = true;
    has_switched_ = true;
    changed_.mark(thread);
}

void ThreadOwners::start_account(TrackedThread& thread) {
    cpython::ThreadHead head = thread.head;
    if (thread.runs_on != head.thread_id) {
        // Of another thread than it says. What that one has used so far may have been told already.
        head.thread_id = thread.runs_on;
        head.native_id = 0;
        thread.cpu_ns = 0;
        thread.began_under_watch = false;
    }
    thread.native_id = native_ids_.find(memory_.reader, head);
    accounts_.begin(thread);
}

void ThreadOwners::take_over(TrackedThread& from, TrackedThread& to) {
    // The thread's own: its CPU time so far goes on to be counted from here.
    to.native_id = from.native_id;
    accounts_.hand_over(from, to);
}

void ThreadOwners::forget_place(TrackedThread& thread) {
    thread.name_bytes = 0;
    thread.runs_on = thread.head.thread_id;
    thread.is_main = thread.runs_on == main_thread_id_;
    thread.is_placed = false;
}

void ThreadOwners::set_apart(TrackedThread& thread) {
    // Which thread waits in it cannot be told before it runs: it stands for itself, without a name
    // and a clock.
    thread.runs_on = thread.state.value();
    thread.name_bytes = 0;
    thread.is_main = false;
    thread.native_id = 0;
    threads_.set_second(thread, false);
}

void ThreadOwners::place(TrackedThread& thread, std::uintptr_t runs_on) {
    const bool was_placed = std::exchange(thread.is_placed, true);
    if (!was_placed && !thread.is_announced) {
        thread.name_bytes = 0;  // it may be another thread's number by now
    }
    if (thread.runs_on == runs_on) {
        return;
    }
    if (!thread.is_second) {
        if (TrackedThread* other = threads_.find_other_state(thread, true)) {
            make_current(*other);
        } else {
            // Of a thread that has ended.
            accounts_.close(thread);
            suspend(thread);
        }
    }
    thread.runs_on = runs_on;
    thread.name_bytes = 0;
    thread.is_main = runs_on == main_thread_id_;
    thread.times_between = 0;  // counted by another thread's clock
}

void ThreadOwners::displace(TrackedThread& thread) {
    place(thread, thread.state.value());
    set_apart(thread);
    thread.is_placed = false;
    thread.stack.must_resend = true;
    changed_.mark(thread);
}

bool ThreadOwners::place_by_stack(TrackedThread& thread) {
    // 3.11 and 3.12: while it runs, a state refers to a _PyCFrame on the C stack of its thread.
    const Address c_frame = thread.head.cframe;
    if (!can_change_threads(thread) || !thread.head.has_cframe_on_stack(thread.state)) {
        return true;
    }
    const std::uintptr_t runs_on = find_by_stack(c_frame.value());
    // What lies above a frame that was placed, up to the record of its thread, is the same stack.
    const StackPlacing& placed = thread.placed;
    if (placed.answer != 0 && placed.runs_on == runs_on && c_frame >= placed.c_frame &&
        (runs_on == 0 || (thread.is_placed && thread.runs_on == runs_on))) {
        return true;
    }
    StackPlacing& placing = thread.placing;
    if (placing.answer == 0 || placing.runs_on != runs_on || c_frame < placing.c_frame) {
        placing = {c_frame, runs_on, interpreters_.ask_for_lists()};
    }
    if (!interpreters_.have_been_walked(placing.answer)) {
        return false;
    }
    thread.placed = std::exchange(placing, {});
    if (runs_on != 0) {
        place(thread, runs_on);
    } else {
        thread.is_placed = false;  // of a thread that Python does not know
    }
    return true;
}

/// The thread on whose C stack that is, of those that are known; 0: none.
std::uintptr_t ThreadOwners::find_by_stack(std::uintptr_t frame) const {
    // The stack of the process itself is above all others, and above the main thread's record.
    std::uintptr_t nearest = frame > main_thread_id_ ? main_thread_id_ : 0;
    std::uintptr_t distance = kMostStackBytes;
    for (const TrackedThread& other : threads_.with_state()) {
        const std::uintptr_t thread_id = other.head.thread_id;
        if (other.has_begun && thread_id != main_thread_id_ && thread_id - frame < distance) {
            nearest = thread_id;
            distance = thread_id - frame;
        }
    }
    return nearest;
}

/// The thread that the state was placed on has a state of its own while it lives.
bool ThreadOwners::is_of_former(const TrackedThread& thread) {
    if (!can_change_threads(thread) || thread.is_apart) {
        return false;
    }
    for (const TrackedThread& own : threads_.with_state()) {
        if (own.has_begun && own.runs_on == thread.runs_on &&
            own.head.thread_id == thread.runs_on && !can_change_threads(own) &&
            !memory_.is_listed(own)) {
            interpreters_.of(own).list_changed = true;
            return true;
        }
    }
    return false;
}

void ThreadOwners::note_running(const cpython::GilState& now) {
    if (interpreters_.count() < 2 || now.locked <= 0) {
        return;
    }
    TrackedThread* running = threads_.find(now.holder());
    if (running == nullptr || !running->has_begun) {
        return;
    }
    if (!can_change_threads(*running) || place_running(*running, now)) {
        make_current(*running);
    }
}

bool ThreadOwners::place_running(TrackedThread& running, const cpython::GilState& now) {
    const TrackedThread* taker = threads_.find(now.last_holder);
    if (taker == nullptr || !taker->has_begun) {
        return false;  // the lists are about to be walked
    }
    if (taker != &running) {
        // It has come from the state that took the GIL: of the same thread, whatever it says.
        place(running, taker->runs_on);
        return true;
    }
    if (!cpython::has(memory_.layout().thread_state.cframe)) {
        // It has taken the GIL anew since it came: of the thread that it came with, if that was
        // seen.
        if (!running.is_placed && threads_.find_other_state(running, false) != nullptr) {
            set_apart(running);
        }
        return true;
    }
    const auto head = cpython::read_thread_head(memory_.reader, memory_.view, running.state);
    if (!head || head->id != running.head.id) {
        return false;
    }
    running.head.cframe = head->cframe;
    return place_by_stack(running) &&
           (running.is_placed || threads_.find_other_state(running, false) == nullptr);
}

void ThreadOwners::note_frames(TrackedThread& thread, std::size_t frame_count) {
    if (frame_count == 0 && can_change_threads(thread)) {
        thread.is_placed = false;  // the next one that calls it can be another thread
    }
    if (threads_.second_count() == 0) {
        return;
    }
    if (!thread.is_second && frame_count == 0) {
        // It has left this interpreter: for one that has frames.
        for (TrackedThread& other : threads_.with_state()) {
            if (other.is_second && other.stack.frame_count > 0 && other.runs_on == thread.runs_on) {
                make_current(other);
                return;
            }
        }
    } else if (thread.is_second && frame_count > 0 && interpreters_.of(thread).head.id != 0) {
        // Met while it waits without the GIL. Code of a sub-interpreter is called by the main one,
        // not the other way round.
        const TrackedThread* now = threads_.find_other_state(thread, false);
        if (now != nullptr && can_change_threads(thread) && !thread.is_placed) {
            set_apart(thread);
        } else if (now == nullptr || now->stack.frame_count == 0 ||
                   interpreters_.of(*now).head.id == 0) {
            make_current(thread);
        }
    }
}

}  // namespace echion::sampling
