#include "sampling/python_memory.h"

#include <time.h>

#include "base/clock.h"
#include "platform/thread_clock.h"

namespace echion::sampling {

bool PythonMemory::read_gil(Address gil, cpython::GilState* out) {
    const auto state = cpython::read_gil(reader, view, gil);
    if (!state) {
        ++read_failures;
        return false;
    }
    *out = *state;
    return true;
}

bool PythonMemory::is_listed(const TrackedThread& thread) {
    const auto head = cpython::read_thread_head(reader, view, thread.state);
    if (!head || head->id != thread.head.id || head->interpreter != thread.head.interpreter ||
        head->thread_id != thread.head.thread_id) {
        return false;
    }
    // Freed memory keeps most of what it held, but not its neighbours' links to it.
    const auto next_at = cpython::at(layout().thread_state.next);
    const auto link = head->prev ? reader.read_pointer(head->prev + next_at)
                                 : cpython::read_threads_head(reader, view, head->interpreter);
    return thread.is_main || (link && *link == thread.state);
}

std::int64_t PythonMemory::read_cpu_ns(const TrackedThread& thread) {
    ++clock_calls;
    return thread.native_id == 0 ? 0 : read_clock_ns(thread_cpu_clock(thread.native_id));
}

void PythonMemory::sleep(std::int64_t duration_ns) {
    const timespec duration = make_timespec(duration_ns);
    ++clock_calls;
    clock_nanosleep(CLOCK_MONOTONIC, 0, &duration, nullptr);
}

}  // namespace echion::sampling
