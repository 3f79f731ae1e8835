// The part of StackSampler that knows in which interpreter a thread is: one that calls code of
// another interpreter has a thread state in each, and runs with one of them at a time.

#include <algorithm>

#include "agent/stack_sampler.h"

namespace echion::agent {
namespace {

// How far below the C library's record of a thread its newest C frame may be: the stack ends at
// that record (glibc nptl/allocatestack.c, musl src/thread/pthread_create.c), and is seldom larger.
constexpr std::uintptr_t kMostStackBytes = std::uintptr_t{256} << 20;

}  // namespace

TrackedThread* StackSampler::find_other_state(const TrackedThread& thread, bool is_second) {
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& other = threads_.slot(i);
        if (&other != &thread && other.in_use && !other.has_left && other.has_begun &&
            other.is_second == is_second && other.runs_on == thread.runs_on) {
            return &other;
        }
    }
    return nullptr;
}

void StackSampler::set_second(TrackedThread& thread, bool is_second) {
    second_count_ -= thread.is_second;
    thread.is_second = is_second;
    second_count_ += thread.is_second;
}

void StackSampler::retract(TrackedThread& thread) {
    if (thread.is_announced) {
        if (thread.name_bytes == 0) {
            scan_names();  // what it has had so far would stay without one
            announce(thread);
        }
        encoder_->thread_end(thread.id);
        thread.is_announced = false;
    }
    thread.must_resend = true;
}

void StackSampler::suspend(TrackedThread& thread) {
    set_second(thread, true);
    retract(thread);
}

void StackSampler::settle_end(TrackedThread& thread) {
    TrackedThread* other = find_other_state(thread, !thread.is_second);
    if (other == nullptr) {
        return;
    }
    const bool ends_with_it = can_change_threads(*other) && !can_change_threads(thread);
    if (ends_with_it) {
        make_current(thread);  // a thread ends where it began
        while ((other = find_other_state(thread, true)) != nullptr && other->is_placed) {
            forget_place(*other);
        }
    } else if (!thread.is_second && !ends_with_it) {
        note_frames(thread, 0);  // it goes on in another interpreter: where it has frames
        if (!thread.is_second) {
            make_current(*other);
        }
    }
}

void StackSampler::make_current(TrackedThread& thread) {
    if (!thread.is_second || !thread.has_begun) {
        return;
    }
    if (TrackedThread* before = find_other_state(thread, false)) {
        take_over(*before, thread);
        suspend(*before);
    } else {
        start_account(thread);
    }
    set_second(thread, false);
    thread.times_between = 0;
    thread.must_resend = true;
    has_switched_ = true;
    mark(thread);
}

void StackSampler::start_account(TrackedThread& thread) {
    cpython::ThreadHead head = thread.head;
    if (thread.runs_on != head.thread_id) {
        // Of another thread than it says. What that one has used so far may have been told already.
        head.thread_id = thread.runs_on;
        head.native_id = 0;
        thread.cpu_ns = 0;
        thread.began_under_watch = false;
    }
    thread.native_id = find_native_id(head);
    const std::int64_t told_ns = thread.cpu_ns;
    watch_.attach(thread);
    if (thread.slot == TrackedThread::kNoSlot) {
        return;
    }
    thread.cpu_ns = std::max(thread.cpu_ns, told_ns);
    if (const auto state = watch_.read(thread.slot); state && !thread.began_under_watch) {
        thread.cpu_ns =
            static_cast<std::int64_t>(state->cpu_ns_at(static_cast<std::uint64_t>(now_ns_)));
    }
    unlisted_.take_over(thread, *encoder_);
}

void StackSampler::take_over(TrackedThread& from, TrackedThread& to) {
    // The thread's own: its CPU time so far goes on to be counted from here.
    to.native_id = from.native_id;
    to.cpu_ns = from.cpu_ns;
    to.began_under_watch = from.began_under_watch;
    watch_.hand_over(from, to);
}

void StackSampler::forget_place(TrackedThread& thread) {
    if (thread.runs_on != thread.head.thread_id) {
        thread.name_bytes = 0;
    }
    thread.runs_on = thread.head.thread_id;
    thread.is_main = thread.runs_on == main_thread_id_;
    thread.is_placed = false;
}

void StackSampler::set_apart(TrackedThread& thread) {
    // Which thread waits in it cannot be told before it runs: it stands for itself, without a name
    // and a clock.
    thread.runs_on = thread.state.value();
    thread.name_bytes = 0;
    thread.is_main = false;
    thread.native_id = 0;
    set_second(thread, false);
}

void StackSampler::place(TrackedThread& thread, std::uintptr_t runs_on) {
    thread.is_placed = true;
    if (thread.runs_on == runs_on) {
        return;
    }
    if (!thread.is_second) {
        if (TrackedThread* other = find_other_state(thread, true)) {
            make_current(*other);
        } else {
            // Of a thread that has ended.
            settled_ns_ += thread.cpu_ns;
            watch_.detach(thread);
            suspend(thread);
        }
    }
    thread.runs_on = runs_on;
    thread.name_bytes = 0;
    thread.is_main = runs_on == main_thread_id_;
    thread.times_between = 0;  // counted by another thread's clock
}

/// It is not run by the thread that it was placed on: that one has its own state again.
void StackSampler::displace(TrackedThread& thread) {
    place(thread, thread.state.value());
    set_apart(thread);
    thread.is_placed = false;
    thread.must_resend = true;
    mark(thread);
}

void StackSampler::place_by_stack(TrackedThread& thread) {
    // 3.11 and 3.12: while it runs, a state refers to a _PyCFrame on the C stack of its thread.
    const std::uintptr_t frame = thread.head.cframe.value();
    if (!can_change_threads(thread) || !thread.head.has_cframe_on_stack(thread.state)) {
        return;
    }
    // The stack of the process itself is above all others, and above the main thread's record.
    std::uintptr_t nearest = frame > main_thread_id_ ? main_thread_id_ : 0;
    std::uintptr_t distance = kMostStackBytes;
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        const TrackedThread& other = threads_.slot(i);
        const std::uintptr_t thread_id = other.head.thread_id;
        if (other.in_use && !other.has_left && other.has_begun && thread_id != main_thread_id_ &&
            thread_id - frame < distance) {
            nearest = thread_id;
            distance = thread_id - frame;
        }
    }
    if (nearest != 0) {
        place(thread, nearest);
    } else {
        // Of a thread that is not known yet.
        thread.is_placed = false;
        for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
            interpreters_[i].list_changed = true;
        }
    }
}

bool StackSampler::can_change_threads(const TrackedThread& thread) const {
    // Up to 3.12 an interpreter is run with the state that it was made with, by whatever thread
    // (Modules/_xxsubinterpretersmodule.c, _run_script_in_interpreter); then each has its own.
    const cpython::Layout& layout = *view_.layout;
    return (cpython::has(layout.runtime.tstate_current) ||
            cpython::has(layout.thread_state.cframe)) &&
           interpreters_[thread.interpreter].head.id != 0;
}

void StackSampler::note_running(const cpython::GilState& now) {
    if (interpreter_count_ < 2 || now.locked <= 0) {
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

bool StackSampler::place_running(TrackedThread& running, const cpython::GilState& now) {
    const TrackedThread* taker = threads_.find(now.last_holder);
    if (taker == nullptr || !taker->has_begun) {
        return false;  // the lists are about to be walked
    }
    if (taker != &running) {
        // It has come from the state that took the GIL: of the same thread, whatever it says.
        place(running, taker->runs_on);
        return true;
    }
    if (!cpython::has(view_.layout->thread_state.cframe)) {
        // It has taken the GIL anew since it came: of the thread that it came with, if that was
        // seen.
        if (!running.is_placed && find_other_state(running, false) != nullptr) {
            set_apart(running);
        }
        return true;
    }
    const auto head = cpython::read_thread_head(reader_, view_, running.state);
    if (!head || head->id != running.head.id) {
        return false;
    }
    running.head.cframe = head->cframe;
    place_by_stack(running);
    return running.is_placed || find_other_state(running, false) == nullptr;
}

void StackSampler::note_frames(TrackedThread& thread, std::size_t frame_count) {
    if (frame_count == 0 && can_change_threads(thread)) {
        thread.is_placed = false;  // the next one that calls it can be another thread
    }
    if (second_count_ == 0) {
        return;
    }
    if (!thread.is_second && frame_count == 0) {
        // It has left this interpreter: for one that has frames.
        for (std::size_t i = 0; i < threads_.slots(); ++i) {
            TrackedThread& other = threads_.slot(i);
            if (other.in_use && !other.has_left && other.is_second && other.frame_count > 0 &&
                other.runs_on == thread.runs_on) {
                make_current(other);
                return;
            }
        }
    } else if (thread.is_second && frame_count > 0 &&
               interpreters_[thread.interpreter].head.id != 0) {
        // Met while it waits without the GIL. Code of a sub-interpreter is called by the main one,
        // not the other way round.
        const TrackedThread* now = find_other_state(thread, false);
        if (now != nullptr && can_change_threads(thread) && !thread.is_placed) {
            set_apart(thread);
        } else if (now == nullptr || now->frame_count == 0 ||
                   interpreters_[now->interpreter].head.id == 0) {
            make_current(thread);
        }
    }
}

}  // namespace echion::agent
