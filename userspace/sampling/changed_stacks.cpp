#include "sampling/changed_stacks.h"

#include <utility>

namespace echion::sampling {

Status ChangedStacks::reserve() {
    auto changed = FixedArray<TrackedThread*>::make(2 * cpython::kMaxThreadStates);
    auto selected = FixedArray<TrackedThread*>::make(2 * cpython::kMaxThreadStates);
    if (!changed || !selected) {
        return fail(ErrorKind::kNoSpace, "reserve memory for threads");
    }
    changed_ = std::move(*changed);
    selected_ = std::move(*selected);
    return {};
}

void ChangedStacks::mark(TrackedThread& thread) {
    if (thread.is_listed_as_changed) {
        thread.may_have_changed = true;
    } else if (count_ < changed_.capacity()) {
        thread.may_have_changed = thread.is_listed_as_changed = true;
        changed_[count_++] = &thread;
    }
}

void ChangedStacks::mark_all(std::uint32_t gil_index) {
    for (TrackedThread& thread : threads_.with_state()) {
        if (interpreters_.of(thread).gil == gil_index) {
            mark(thread);
        }
    }
}

void ChangedStacks::mark_holders(std::uint32_t gil_index, const cpython::GilState& now) {
    Gil& gil = interpreters_.gil(gil_index);
    const std::uintptr_t switches = now.switch_number - gil.sampled.switch_number;
    // A thread goes from one interpreter to another without a switch: the state that it has left
    // would keep the stack that was seen last.
    if (interpreters_.are_free_threaded() || !gil.is_known || switches > 1 ||
        interpreters_.is_shared(gil_index)) {
        mark_all(gil_index);
        return;
    }
    for (const Address holder : {now.holder(), now.last_holder, gil.sampled.holder()}) {
        if (TrackedThread* thread = threads_.find(holder)) {
            mark(*thread);
        } else if (holder &&
                   (holder != gil.unknown_holder || (now.locked > 0 && holder == now.holder()))) {
            // A thread that began since the lists were walked, or one that has ended.
            gil.unknown_holder = holder;
            interpreters_.mark_lists_of(gil_index);
        }
    }
}

std::span<TrackedThread*> ChangedStacks::select(std::uint32_t gil_index) {
    std::size_t count = 0;
    for (TrackedThread* thread : all()) {
        if (!thread->in_use || !thread->may_have_changed || thread->has_left ||
            interpreters_.of(*thread).gil != gil_index) {
            continue;
        }
        // A state that any thread may run with can change without the one that it was placed on.
        if (thread->slot != TrackedThread::kNoSlot && !thread->has_run &&
            !thread->stack.must_resend && !thread->must_read_on &&
            !interpreters_.can_change_threads(*thread)) {
            thread->may_have_changed = false;  // it has not run: its stack is what it was
            continue;
        }
        selected_[count++] = thread;
    }
    return {selected_.data(), count};
}

void ChangedStacks::forget_read() {
    // One that has been removed, and added again, may stand there twice.
    for (TrackedThread* thread : all()) {
        thread->is_listed_as_changed = false;
    }
    std::size_t kept = 0;
    for (TrackedThread* thread : all()) {
        if (thread->in_use && thread->may_have_changed && !thread->is_listed_as_changed) {
            thread->is_listed_as_changed = true;
            changed_[kept++] = thread;
        }
    }
    count_ = kept;
}

}  // namespace echion::sampling
