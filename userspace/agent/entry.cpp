// How the agent comes into a process: preloaded (the constructor), or injected (echion_attach).

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "agent/channel.h"
#include "agent/dump.h"
#include "agent/guest.h"
#include "agent/sampler.h"
#include "agent/tick_timer.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "cpython/locate.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"

namespace echion::agent {
namespace {

// Room for the deepest call of the sampler (some 40 KiB), whatever `ulimit -s` or a small default
// of the C library says.
constexpr std::size_t kStackBytes = 256 * 1024;

/// The state of the agent in this process. The one global there is: constructors, fork handlers and
/// entry points have nowhere else to find it.
struct Agent {
    std::atomic<bool> is_active{false};  // a sampler thread exists, or is being made
    std::atomic<int> channel_fd{-1};     // its control channel, for the child of a fork to close
    SocketId channel_id;                 // written before channel_fd
    std::atomic<bool> handles_fork{false};
};
Agent g_agent;

struct Assignment {
    GuestFacts facts;
    int channel_fd;
    Rendezvous rendezvous;  // of a launch
};

// How long a program that has died may take to close its last descriptor: the kernel first undoes
// what else it had.
constexpr std::int64_t kLastDescriptorNs = 5 * kNanosPerSecond;

/// Closes this process's end of the rendezvous socket when the run is over. When only this agent's
/// part of it is, a Python that this process starts or becomes may still knock.
void leave_rendezvous(const Channel& channel, Rendezvous& rendezvous) {
    if (channel.was_told_to_stop() ||
        rendezvous.is_abandoned(channel.has_hung_up() ? kLastDescriptorNs : 0)) {
        rendezvous.close();
    }
}

/// As the last thread there is, this one's return is the program's exit(0): what the program has
/// left to be run then (atexit(3)) may need signals, or have to be ended by one. Those that may
/// still come to this thread alone stay blocked.
void unblock_signals() {
    sigset_t others;
    sigfillset(&others);
    sigdelset(&others, SignalTimer::pick_signal());
    sigdelset(&others, SIGIO);
    pthread_sigmask(SIG_UNBLOCK, &others, nullptr);
}

void* sampler_main(void* argument) {
    prctl(PR_SET_NAME, "echion");
    {
        // The assignment lies in a mapping of its own, which ends with this block.
        Mapping memory(argument, sizeof(Assignment));
        auto& assignment = *static_cast<Assignment*>(argument);
        Channel channel{UniqueFd(assignment.channel_fd)};
        run_sampler(channel, assignment.facts);
        leave_rendezvous(channel, assignment.rendezvous);
        // Before the channel closes: its number may then be somebody else's.
        g_agent.channel_fd.store(-1);
    }
    g_agent.is_active.store(false);
    if (is_left_to_one_thread(kOwnProcess)) {
        unblock_signals();
    }
    return nullptr;
}

// In the child there is no sampler, and the ring and the sampler's memory were not inherited. The
// channel was: as long as a copy of it is open, the parent's end would not be seen to hang up.
void handle_fork_in_child() {
    const int fd = g_agent.channel_fd.exchange(-1);
    if (fd >= 0 && is_socket(fd, g_agent.channel_id)) {
        close(fd);
    }
    StackDump::forget_after_fork();
    g_agent.is_active.store(false);
}

/// Starts the sampler thread with a control channel, which it owns from then on, and with the place
/// that it came from, if that was a launch. 0 or an errno; EBUSY when there is one already.
int start_sampler(UniqueFd channel, const Rendezvous& rendezvous) {
    if (g_agent.is_active.exchange(true)) {
        return EBUSY;
    }
    if (!g_agent.handles_fork.exchange(true)) {
        pthread_atfork(nullptr, nullptr, handle_fork_in_child);
    }
    auto memory = Mapping::make_anonymous(sizeof(Assignment));
    if (!memory) {
        g_agent.is_active.store(false);
        return ENOMEM;
    }
    auto* assignment =
        new (memory->data()) Assignment{collect_guest_facts(), channel.get(), rendezvous};

    assignment->facts.is_launch = rendezvous.is_there();
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    // The C library takes the thread-local data of all objects out of the stack.
    pthread_attr_setstacksize(
        &attributes,
        std::max(kStackBytes, kStackBytes / 2 + static_cast<std::size_t>(PTHREAD_STACK_MIN)) +
            assignment->facts.tls_bytes);
    // The thread is born with all signals blocked: none that is meant for the target's threads is
    // ever handled on it.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    g_agent.channel_id = identify(channel.get());
    g_agent.channel_fd.store(channel.get());
    pthread_t thread;
    const int result = pthread_create(&thread, &attributes, sampler_main, assignment);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    if (result != 0) {
        g_agent.channel_fd.store(-1);
        g_agent.is_active.store(false);
        return result;
    }
    (void)channel.release();  // the thread's now, as is the assignment
    (void)memory->release();
    return 0;
}

// Whether this library was preloaded, and not opened later by an injection into a process that
// still has the environment of an earlier launch.
bool is_preloaded() {
    const char* preload = std::getenv("LD_PRELOAD");
    Dl_info info{};
    return preload != nullptr && dladdr(reinterpret_cast<const void*>(&is_preloaded), &info) != 0 &&
           info.dli_fname != nullptr && std::strstr(preload, info.dli_fname) != nullptr;
}

bool is_python() {
    ProcessReader reader;
    cpython::LocatedRuntime located;
    if (!reader.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(&located)))) {
        return true;  // the sampler will say what is wrong
    }
    const Status status = cpython::locate_runtime(reader, kOwnProcess, located);
    return status || status.error().kind != ErrorKind::kNotPython;
}

__attribute__((constructor)) void on_load() {
    Rendezvous rendezvous = Rendezvous::find();
    if (rendezvous.is_abandoned(0)) {
        rendezvous.close();  // of a run that was over before this program was started
    }
    // In a program that is not Python the agent does nothing, and is inherited by what it starts.
    if (!rendezvous.is_there() || !is_preloaded() || !is_python()) {
        return;
    }
    if (auto channel = rendezvous.knock()) {
        start_sampler(std::move(*channel), rendezvous);
    }
}

}  // namespace
}  // namespace echion::agent

/// Entry point for an injection: starts sampling for the program at the other end of `control_fd`,
/// a SOCK_SEQPACKET socket that belongs to the agent from then on (it is closed also on failure).
/// Returns at once: 0, or an errno (EBUSY: already sampling). Any thread, in no lock of the C
/// library or its loader.
extern "C" __attribute__((visibility("default"))) int echion_attach(int control_fd) {
    return echion::agent::start_sampler(echion::UniqueFd(control_fd), {});
}
