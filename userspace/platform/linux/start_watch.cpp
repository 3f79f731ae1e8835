// CPython makes the attributes of its condition variables when it is initialised: from 3.8 on by
// pthread_condattr_setclock(3), first thing of all, once for each time that the library is loaded
// (3.8-3.11) or initialised (3.12 and later). Hardly anybody else calls that function. The agent
// stands in front of the C library's, as the loader looks names up in preloaded objects before the
// C library, also for an object that was opened with RTLD_LOCAL. Not for one that was opened with
// RTLD_DEEPBIND or by dlmopen(3): those are not noticed.
#include "platform/start_watch.h"

#include <dlfcn.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

// Of glibc 2.32 and later (sys/single_threaded.h).
extern "C" __attribute__((weak)) char __libc_single_threaded;

namespace echion {
namespace {

using SetClock = int (*)(pthread_condattr_t*, clockid_t);

/// A global: who calls the function has nothing else to give.
struct StartWatch {
    std::atomic<StartListener> listener{nullptr};
    pid_t listening_pid = 0;                   // where that began; written before it
    std::atomic<SetClock> set_clock{nullptr};  // the C library's
};
// Initialised by the compiler: calls of pthread_condattr_setclock() may come before constructors.
constinit StartWatch g_watch;

/// The function that the agent's stands in front of; null if there is none.
SetClock find_set_clock() {
    SetClock function = g_watch.set_clock.load(std::memory_order_relaxed);
    if (function == nullptr) {
        function = reinterpret_cast<SetClock>(dlsym(RTLD_NEXT, "pthread_condattr_setclock"));
        g_watch.set_clock.store(function, std::memory_order_relaxed);
    }
    return function;
}

/// Whether this is the child of a fork by a process with several threads: one of the others may
/// have held the loader's lock, which then nobody will ever let go of in this process. glibc keeps
/// the parent's answer in the child.
bool may_have_stuck_locks() {
    return getpid() != g_watch.listening_pid &&
           (&__libc_single_threaded == nullptr || __libc_single_threaded == 0);
}

/// The calling thread does not see what the agent does on it.
class UnseenWork {
  public:
    UnseenWork() : errno_(errno) { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state_); }
    UnseenWork(const UnseenWork&) = delete;
    UnseenWork& operator=(const UnseenWork&) = delete;
    ~UnseenWork() {
        pthread_setcancelstate(cancel_state_, nullptr);
        errno = errno_;
    }

  private:
    int errno_;
    int cancel_state_ = PTHREAD_CANCEL_ENABLE;
};

}  // namespace

void prepare_start_watch() { (void)find_set_clock(); }

void watch_starts(StartListener listener) {
    if (listener != nullptr) {
        g_watch.listening_pid = getpid();
    }
    g_watch.listener.store(listener);
}

}  // namespace echion

/// In front of the C library's pthread_condattr_setclock().
extern "C" __attribute__((visibility("default"))) int echion_condattr_setclock(
    pthread_condattr_t* attributes, clockid_t clock) __asm__("pthread_condattr_setclock");

int echion_condattr_setclock(pthread_condattr_t* attributes, clockid_t clock) {
    using namespace echion;
    const StartListener listener = g_watch.listener.load();
    if (listener != nullptr && !may_have_stuck_locks()) {
        const UnseenWork unseen;
        listener(__builtin_return_address(0));
    }
    const SetClock set_clock = find_set_clock();
    return set_clock != nullptr ? set_clock(attributes, clock) : ENOSYS;
}
