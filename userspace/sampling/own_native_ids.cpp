#include "sampling/own_native_ids.h"

#include <pthread.h>
#include <time.h>

#include <cerrno>

#include "platform/own_thread.h"
#include "platform/thread_clock.h"
#include "platform/thread_record.h"

namespace echion::sampling {
namespace {

/// Whether the kernel knows a thread of this process by that number: only of such may the clock be
/// read (kernel/time/posix-cpu-timers.c, pid_for_clock()). Where it may not be asked (seccomp), the
/// number is believed.
bool is_own_thread(std::uint32_t native_id) {
    timespec used{};
    return native_id != 0 &&
           (clock_gettime(thread_cpu_clock(native_id), &used) == 0 || errno != EINVAL);
}

}  // namespace

void OwnNativeIds::open(MemoryReader& reader, const ProcessFacts& facts) {
    // By two threads that are known: one alone can have its number in its record more than once.
    const std::uint32_t own_id = own_thread_id();
    offset_ = find_thread_number(
        reader, reinterpret_cast<std::uintptr_t>(pthread_self()),
        [&](std::size_t offset, std::uint32_t number) {
            if (number != own_id || facts.io_thread_id == 0) {
                return number == own_id;
            }
            const auto io = reader.read_value<std::uint32_t>(Address(facts.io_thread_id + offset));
            return io && *io == facts.io_tid;
        });
}

std::uint32_t OwnNativeIds::find(MemoryReader& reader, const cpython::ThreadHead& head) const {
    // What CPython has noted (3.11 and later) is the parent's in the child of a fork() by C code,
    // which runs no PyOS_AfterFork_Child(): the C library's own record is right there, too.
    if (is_own_thread(head.native_id)) {
        return head.native_id;
    }
    if (offset_ == 0 || head.thread_id == 0) {
        return 0;
    }
    const auto id = reader.read_value<std::uint32_t>(Address(head.thread_id + offset_));
    return id && is_own_thread(*id) ? *id : 0;
}

}  // namespace echion::sampling
