#include "sampling/own_native_ids.h"

#include <pthread.h>
#include <time.h>

#include <cerrno>

#include "platform/own_thread.h"
#include "platform/thread_clock.h"

namespace echion::sampling {
namespace {

// How far into a struct pthread the thread's number is looked for (glibc 2.36, x86-64: 720).
constexpr std::size_t kPthreadBytes = 2048;

/// Whether the kernel knows a thread of this process by that number: only of such may the clock be
/// read (kernel/time/posix-cpu-timers.c, pid_for_clock()). Where it may not be asked (seccomp), the
/// number is believed.
bool is_own_thread(std::uint32_t native_id) {
    timespec used{};
    return native_id != 0 &&
           (clock_gettime(thread_cpu_clock(native_id), &used) == 0 || errno != EINVAL);
}

}  // namespace

void OwnNativeIds::open(MemoryReader& reader) {
    // glibc and musl have the kernel's number of the thread in the structure that a pthread_t
    // points to; where, shows in the calling thread's own. 3.8-3.10 keep no other.
    const auto own_id = own_thread_id();
    const auto self = reinterpret_cast<std::uintptr_t>(pthread_self());
    for (std::size_t offset = 0; offset < kPthreadBytes; offset += sizeof(std::uint32_t)) {
        const auto value = reader.read_value<std::uint32_t>(Address(self + offset));
        if (!value || *value == own_id) {
            offset_ = value ? offset : 0;
            return;
        }
    }
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
