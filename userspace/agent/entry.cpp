// How the agent comes into a process: preloaded (the constructor; where Python is loaded later, its
// start), or injected (echion_attach).

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>

#include "agent/channel.h"
#include "agent/descriptors.h"
#include "agent/dump.h"
#include "agent/guest.h"
#include "agent/io_thread.h"
#include "agent/python_start.h"
#include "agent/sampler.h"
#include "base/attach_part.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "control/control.h"
#include "cpython/locate.h"
#include "platform/own_thread.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"
#include "platform/wake_word.h"

// Of glibc 2.32 and later (sys/single_threaded.h).
extern "C" __attribute__((weak)) char __libc_single_threaded;

namespace echion::agent {
namespace {

// Room for the deepest call of the sampler (some 40 KiB), whatever `ulimit -s` or a small default
// of the C library says.
constexpr std::size_t kStackBytes = 256 * 1024;

// How long the program waits, at most, until the agent's descriptors are where they stay: at its
// start, when it has begun nothing yet, and in an attachment on a thread of the agent's.
constexpr std::int64_t kSettlingNs = kNanosPerSecond;

struct Assignment;
bool start_next();

/// Stands for a CPython runtime whose place is not known.
constexpr std::uintptr_t kSomewhere = 1;

/// The state of the agent in this process. A global: constructors, fork handlers and entry points
/// have nowhere else to find it.
struct Agent {
    std::atomic<bool> is_active{false};  // the agent's threads exist, or are being made
    // The control channel as far as it is among the program's descriptors, for the child of a fork
    // to close.
    std::atomic<int> channel_fd{-1};
    SocketId channel_id;  // written before channel_fd
    std::atomic<bool> handles_fork{false};
    WakeWord start{0};  // Start, of the threads that are being made; of one start at a time
    std::atomic<int> start_error{0};
    // Of an IoThread that waits for its sampler, which is made apart.
    std::atomic<Assignment*> waiting{nullptr};

    // Of a preloaded agent.
    Rendezvous rendezvous;                  // written before is_listening
    std::atomic<bool> is_listening{false};  // to starts of Python
    pid_t listening_pid = 0;                // where that began; written before is_listening
    // The CPython runtime (_PyRuntime) that a sampler has been made for in this process, also if
    // it has ended since; kSomewhere; 0 for none.
    std::atomic<std::uintptr_t> python{0};
    WakeWord next_python{kNoNextPython};  // NextPython; for GuestFacts
    std::atomic<pid_t> sampler_tid{0};
    std::atomic<std::uint32_t> python_starts{0};  // noticed; for GuestFacts
    std::atomic<int (*)(pthread_condattr_t*, clockid_t)> set_clock{nullptr};  // the C library's
};
// Initialised by the compiler: calls of pthread_condattr_setclock() may come before constructors.
constinit Agent g_agent;

/// Who says last how a start has gone: the IoThread, to the thread that waits for it, or that
/// thread, which waits no longer. Only from kStarting to another one.
enum Start : std::uint32_t { kStarting, kStarted, kUnattended };
enum Sampler : std::uint32_t { kNoneYet, kMade, kNotMade };

/// What both threads work with. Lies in a mapping of its own, which the IoThread ends.
struct Assignment {
    GuestFacts facts;
    int control_fd = -1;    // of an attachment
    Rendezvous rendezvous;  // of a launch
    bool is_late = false;   // of a launch: Python came when the program was running already
    // The sampler is not made by the IoThread, but by a thread that has a descriptor table of its
    // own already.
    bool is_apart = false;
    pthread_t sampler{};
    WakeWord sampler_state{kNoneYet};  // Sampler
    std::optional<cpython::LocatedRuntime> found;
    IoThread io;
    // Written by the sampler, for the IoThread.
    std::atomic<bool> has_own_table{false};
    bool was_told_to_stop = false;
    bool has_hung_up = false;
    bool is_last = false;    // no other thread of the program is left
    int program_status = 0;  // then; as wait(2) tells it
};

// How long a program that has died may take to close its last descriptor: the kernel first undoes
// what else it had.
constexpr std::int64_t kLastDescriptorNs = 5 * kNanosPerSecond;

/// Closes this process's end of the rendezvous socket when the run is over. When only this agent's
/// part of it is, a Python that this process starts or becomes may still connect.
void leave_rendezvous(Assignment& assignment) {
    Rendezvous& rendezvous = assignment.rendezvous;
    if (assignment.was_told_to_stop ||
        rendezvous.is_abandoned(assignment.has_hung_up ? kLastDescriptorNs : 0)) {
        rendezvous.close();
    }
}

/// As the last thread there is, this one's return is the program's exit(0): what the program has
/// left to be run then (atexit(3)) may need signals, or have to be ended by one.
void unblock_signals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_UNBLOCK, &all, nullptr);
}

/// Ends the process with the status of its first thread, which was the program's last and has not
/// left by pthread_exit(3): no exit(0) is due. This thread ends behind it, and the kernel tells
/// the status of the one that ends last. Returns where a seccomp filter refuses all that.
void end_process_with(int status) {
    const int number = WTERMSIG(status);
    // That thread alone was killed: by seccomp's strict mode, or by a filter.
    if (WIFSIGNALED(status) && (number == SIGKILL || number == SIGSYS)) {
        struct sigaction action {};
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, nullptr);
        unblock_signals();
        kill(getpid(), number);
    }
    syscall(SYS_exit, WEXITSTATUS(status));
}

/// The channel of an attachment, or a new one to whoever started the program; none if there is
/// nobody.
Result<UniqueFd> open_channel(Assignment& assignment, bool has_own_table) {
    if (!assignment.rendezvous.is_there()) {
        UniqueFd given(assignment.control_fd);
        return move_up(std::move(given), has_own_table);
    }
    auto channel = assignment.rendezvous.connect(has_own_table);
    if (has_own_table) {
        Rendezvous(assignment.rendezvous).close();  // the copy
    }
    return channel;
}

/// Notes where a child of a fork finds the channel, if it finds it.
void tell_fork_handler(const Channel* channel) {
    g_agent.channel_fd.store(-1);
    if (channel != nullptr && !channel->has_own_table()) {
        g_agent.channel_id = channel->id();
        g_agent.channel_fd.store(channel->fd());
    }
}

void sample(Assignment& assignment) {
    const bool is_launch = assignment.rendezvous.is_there();
    const bool has_own_table =
        assignment.is_apart ||
        leave_descriptor_table(is_launch ? assignment.rendezvous.fd() : assignment.control_fd,
                               is_launch && !assignment.is_late);
    assignment.has_own_table.store(has_own_table);
    assignment.io.set_own_table(has_own_table);
    auto socket = open_channel(assignment, has_own_table);
    if (!socket) {
        return;
    }
    Channel channel(std::move(*socket), has_own_table);
    if (!has_own_table) {
        tell_fork_handler(&channel);
    }
    if (has_own_table || !is_launch) {
        assignment.io.settle();
    }  // else when all descriptors have come, closed and open
    assignment.facts.io_tid = static_cast<std::uint32_t>(assignment.io.tid());
    ProgramThreads program;
    run_sampler(channel, assignment.facts, assignment.found ? &*assignment.found : nullptr,
                assignment.io, program);
    assignment.was_told_to_stop = channel.was_told_to_stop();
    assignment.has_hung_up = channel.has_hung_up();
    assignment.is_last = has_own_table && program.is_over();
    assignment.program_status = assignment.is_last ? program.read_status() : 0;
    if (!has_own_table) {
        tell_fork_handler(nullptr);  // before its number may be somebody else's
    }
}

void* sampler_main(void* argument) {
    name_own_thread("echion");
    auto& assignment = *static_cast<Assignment*>(argument);
    g_agent.sampler_tid.store(static_cast<pid_t>(own_thread_id()));
    sample(assignment);
    g_agent.sampler_tid.store(0);
    assignment.io.end();
    return nullptr;
}

/// Tells who waits for the start how it has gone. False if nobody does any more. An error is the
/// waiting one's from then on: the channel or the rendezvous, and the end of this start. Another
/// start may begin as soon as it is told.
bool tell_start(int error) {
    g_agent.start_error.store(error);
    std::uint32_t expected = kStarting;
    if (!g_agent.start.compare_exchange_strong(expected, kStarted)) {
        return false;
    }
    wake_all(g_agent.start);
    return true;
}

/// Waits for that. 0 or an errno; 0 also when the start takes longer.
int await_start(std::int64_t timeout_ns) {
    std::uint32_t expected = kStarting;
    if (!wait_while(g_agent.start, kStarting, timeout_ns) &&
        g_agent.start.compare_exchange_strong(expected, kUnattended)) {
        return 0;
    }
    return g_agent.start_error.load();
}

/// Nothing of a start that has failed is left.
void forget_start() {
    g_agent.channel_fd.store(-1);
    g_agent.is_active.store(false);
    (void)start_next();
}

Error thread_failure(int error) {
    return {ErrorKind::kNoSpace, error, "the agent's threads cannot be made (ulimit -u, -v, -d)"};
}

/// Tells the program at the other end why there is no sampler.
void report_failure(const Rendezvous& rendezvous, int error) {
    if (auto socket = rendezvous.connect(false)) {
        Channel(std::move(*socket), false).send_failed(thread_failure(error));
    }
}

/// The same when nobody waits any more who could: of a launch, or of an attachment whose channel
/// has been taken over and has to be closed, unless the program has closed it.
void report_late_failure(const Assignment& assignment, int error) {
    if (assignment.rendezvous.is_there()) {
        report_failure(assignment.rendezvous, error);
        return;
    }
    UniqueFd given(g_agent.channel_fd.exchange(-1));
    if (!is_socket(given.get(), g_agent.channel_id)) {
        (void)given.release();
        return;
    }
    Channel(std::move(given), false).send_failed(thread_failure(error));
}

/// Attributes of the agent's threads.
class ThreadAttributes {
  public:
    explicit ThreadAttributes(std::size_t tls_bytes) {
        pthread_attr_init(&attributes_);
        // The C library takes the thread-local data of all objects out of the stack.
        pthread_attr_setstacksize(
            &attributes_,
            std::max(kStackBytes, kStackBytes / 2 + static_cast<std::size_t>(PTHREAD_STACK_MIN)) +
                tls_bytes);
    }
    ThreadAttributes(const ThreadAttributes&) = delete;
    ThreadAttributes& operator=(const ThreadAttributes&) = delete;
    ~ThreadAttributes() { pthread_attr_destroy(&attributes_); }

    pthread_attr_t* get() { return &attributes_; }

  private:
    pthread_attr_t attributes_;
};

/// In the program's descriptor table an attachment's channel is not needed any more once the
/// sampler has it in its own.
void close_given_channel(const Assignment& assignment) {
    if (assignment.control_fd >= 0 && assignment.has_own_table.load()) {
        const int fd = g_agent.channel_fd.exchange(-1);
        if (is_socket(fd, g_agent.channel_id)) {
            close(fd);
        }
    }
}

/// Makes the sampler in the calling thread's descriptor table. 0 or an errno.
int make_sampler(Assignment& assignment) {
    ThreadAttributes attributes(assignment.facts.tls_bytes);
    return pthread_create(&assignment.sampler, attributes.get(), sampler_main, &assignment);
}

/// Makes the sampler, or waits until it is made apart. False if there is none: then another agent
/// may be active already.
bool await_sampler(Assignment& assignment) {
    if (assignment.is_apart) {
        g_agent.waiting.store(&assignment);
        (void)tell_start(0);
        wait_while(assignment.sampler_state, kNoneYet);
        if (assignment.sampler_state.load() == kMade) {
            return true;
        }
        forget_start();
        return false;
    }
    const int error = make_sampler(assignment);
    if (error != 0 && !tell_start(error)) {
        report_late_failure(assignment, error);
        forget_start();
    }
    return error == 0;
}

void* io_main(void* argument) {
    name_own_thread("echion-io");
    bool is_last = false;
    int program_status = 0;
    {
        Mapping memory(argument, sizeof(Assignment));
        auto& assignment = *static_cast<Assignment*>(argument);
        assignment.io.begin();
        if (!await_sampler(assignment)) {
            return nullptr;
        }
        assignment.io.wait_until_settled();
        close_given_channel(assignment);
        (void)tell_start(0);
        assignment.io.serve();
        pthread_join(assignment.sampler, nullptr);
        leave_rendezvous(assignment);
        is_last = assignment.is_last;
        program_status = assignment.program_status;
    }
    g_agent.is_active.store(false);
    if (program_status != 0) {
        end_process_with(program_status);
    }
    if (is_last) {
        unblock_signals();
    } else {
        (void)start_next();
    }
    return nullptr;
}

// In the child there is no sampler, and the ring and the agent's memory were not inherited. A
// channel that is not the sampler's alone was: as long as a copy of it is open, the parent's end
// would not be seen to hang up.
void handle_fork_in_child() {
    const int fd = g_agent.channel_fd.exchange(-1);
    if (fd >= 0 && is_socket(fd, g_agent.channel_id)) {
        close(fd);
    }
    StackDump::forget_after_fork();
    g_agent.waiting.store(nullptr);
    g_agent.is_active.store(false);
    g_agent.next_python.store(kNoNextPython);
    if (g_agent.python_starts.load() == 0) {
        g_agent.python.store(0);  // that it starts here is noticed
    }
}

/// The agent's threads are born with all signals blocked: none that is meant for the target's
/// threads is ever handled on them.
class BlockedSignals {
  public:
    BlockedSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

/// Makes the agent's threads, for what `fill` puts in: a channel, which they own then, or the
/// rendezvous. 0 or an errno; EBUSY when there are some already.
template <typename Fill>
int start_threads(const Fill& fill) {
    if (g_agent.is_active.exchange(true)) {
        return EBUSY;
    }
    if (!g_agent.handles_fork.exchange(true) &&
        pthread_atfork(nullptr, nullptr, handle_fork_in_child) != 0) {
        g_agent.handles_fork.store(false);
        forget_start();
        return ENOMEM;
    }
    auto memory = Mapping::make_anonymous(sizeof(Assignment));
    if (!memory) {
        forget_start();
        return ENOMEM;
    }
    auto* assignment = new (memory->data()) Assignment;
    assignment->facts = collect_guest_facts();
    fill(*assignment);
    assignment->facts.is_launch = assignment->rendezvous.is_there() && !assignment->is_late;
    assignment->facts.is_late = assignment->is_late;
    assignment->facts.python_starts = &g_agent.python_starts;
    assignment->facts.next_python = &g_agent.next_python;
    if (assignment->control_fd >= 0) {
        g_agent.channel_id = identify(assignment->control_fd);
        g_agent.channel_fd.store(assignment->control_fd);
    }
    ThreadAttributes attributes(assignment->facts.tls_bytes);
    pthread_attr_setdetachstate(attributes.get(), PTHREAD_CREATE_DETACHED);
    const bool is_apart = assignment->is_apart;  // it may be gone as soon as the thread exists
    g_agent.start.store(kStarting);
    pthread_t thread;
    int result = 0;
    {
        const BlockedSignals blocked;
        result = pthread_create(&thread, attributes.get(), io_main, assignment);
    }
    if (result == 0) {
        (void)memory->release();  // the thread's now
        // A sampler that is made apart has nothing to settle, but needs an IoThread that has begun.
        result = await_start(is_apart ? -1 : kSettlingNs);
    }
    if (result != 0) {
        forget_start();
    }
    return result;
}

/// Makes the agent's threads for a Python that has come when the program was running already.
void start_late() {
    Rendezvous rendezvous = g_agent.rendezvous;
    if (rendezvous.is_abandoned(0)) {
        g_agent.is_listening.store(false);
        rendezvous.close();
    }
    if (!rendezvous.is_there()) {
        return;
    }
    const int error = start_threads([&](Assignment& assignment) {
        assignment.rendezvous = rendezvous;
        assignment.is_late = true;
    });
    if (error != 0 && error != EBUSY) {
        report_failure(rendezvous, error);
    }
}

/// Where no agent is active: makes the threads for the Python that waits for them, if one does. To
/// be called behind each change that can make both true; of all who notice it, one does it. Whether
/// this one did.
bool start_next() {
    std::uint32_t expected = kNextPythonWaits;
    if (g_agent.is_active.load() ||
        !g_agent.next_python.compare_exchange_strong(expected, kNextPythonComes)) {
        return false;
    }
    start_late();
    expected = kNextPythonComes;  // unless another one waits by now
    if (g_agent.next_python.compare_exchange_strong(expected, kNoNextPython)) {
        wake_all(g_agent.next_python);
    }
    return true;
}

/// The IoThread of an attachment, in the program's descriptor table. 0 or an errno; with 0,
/// start_apart() has to follow.
int start_beside() {
    return start_threads([](Assignment& assignment) {
        assignment.is_apart = true;
        assignment.facts.helper_tids[0] = own_thread_id();
    });
}

/// The sampler for that IoThread, in the calling thread's own table. 0 or an errno: then the
/// IoThread ends too. The descriptor is the sampler's only with 0.
int start_apart(int control_fd) {
    Assignment* assignment = g_agent.waiting.exchange(nullptr);
    if (assignment == nullptr) {
        return EINVAL;
    }
    assignment->control_fd = control_fd;
    assignment->facts.helper_tids[1] = own_thread_id();
    int result = 0;
    {
        const BlockedSignals blocked;
        result = make_sampler(*assignment);
    }
    // The IoThread's memory may be gone behind this.
    set_and_wake(assignment->sampler_state, result == 0 ? kMade : kNotMade);
    return result;
}

// Whether this library was preloaded, and not opened later by an injection into a process that
// still has the environment of an earlier launch.
bool is_preloaded() {
    const char* preload = std::getenv("LD_PRELOAD");
    Dl_info info{};
    return preload != nullptr && dladdr(reinterpret_cast<const void*>(&is_preloaded), &info) != 0 &&
           info.dli_fname != nullptr && std::strstr(preload, info.dli_fname) != nullptr;
}

/// Looks for Python: its runtime, kSomewhere if it is not known where that is, 0 when this is
/// another program. `found` only if its runtime is known.
std::uintptr_t find_python(std::optional<cpython::LocatedRuntime>& found) {
    ProcessReader reader;
    cpython::LocatedRuntime located;
    if (!reader.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(&located)))) {
        return kSomewhere;  // the sampler will say what is wrong
    }
    const Status status = cpython::locate_runtime(reader, kOwnProcess, located);
    if (!status && status.error().kind == ErrorKind::kNotPython) {
        return 0;
    }
    if (status) {
        found.emplace(located);
    }
    return located.view.runtime ? located.view.runtime.value() : kSomewhere;
}

using SetClock = int (*)(pthread_condattr_t*, clockid_t);

/// The function that the agent's stands in front of; null if there is none.
SetClock find_set_clock() {
    SetClock function = g_agent.set_clock.load(std::memory_order_relaxed);
    if (function == nullptr) {
        function = reinterpret_cast<SetClock>(dlsym(RTLD_NEXT, "pthread_condattr_setclock"));
        g_agent.set_clock.store(function, std::memory_order_relaxed);
    }
    return function;
}

__attribute__((constructor)) void on_load() {
    (void)find_set_clock();  // now, as it changes what dlerror(3) says
    Rendezvous rendezvous = Rendezvous::find();
    if (rendezvous.is_abandoned(0)) {
        rendezvous.close();  // of a run that was over before this program was started
    }
    if (!rendezvous.is_there() || !is_preloaded()) {
        return;
    }
    // In a program that is not Python the agent does nothing, and is inherited by what it starts.
    std::optional<cpython::LocatedRuntime> found;
    const std::uintptr_t python = find_python(found);
    g_agent.python.store(python);
    g_agent.rendezvous = rendezvous;
    g_agent.listening_pid = getpid();
    g_agent.is_listening.store(true);
    if (python == 0) {
        return;
    }
    const int error = start_threads([&](Assignment& assignment) {
        assignment.rendezvous = rendezvous;
        assignment.found = found;
    });
    if (error != 0) {
        report_failure(rendezvous, error);
    }
}

/// The CPython runtime at `python` is about to start, on the calling thread.
void on_python_start(std::uintptr_t python) {
    g_agent.python_starts.fetch_add(1);
    std::uintptr_t known = g_agent.python.load();
    if (known == python || known == kSomewhere ||
        !g_agent.python.compare_exchange_strong(known, python)) {
        return;
    }
    g_agent.next_python.store(kNextPythonWaits);
    if (start_next() || is_loaded(Address(known))) {
        return;  // where there are two, this one is sampled when the other has ended
    }
    // A sampler that the kernel wakes for CPU time may wait for long.
    if (const pid_t tid = g_agent.sampler_tid.load(); tid != 0) {
        signal_thread(getpid(), tid, SIGIO);
    }
    wait_while(g_agent.next_python, kNextPythonWaits, kSettlingNs);
    wait_while(g_agent.next_python, kNextPythonComes, kSettlingNs);
}

/// Whether this is the child of a fork by a process with several threads: one of the others may
/// have held the loader's lock, which then nobody will ever let go of in this process. glibc keeps
/// the parent's answer in the child.
bool may_have_stuck_locks() {
    return getpid() != g_agent.listening_pid &&
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
}  // namespace echion::agent

/// Entry point for an injection: starts sampling for the program at the other end of `control_fd`,
/// a SOCK_SEQPACKET socket that belongs to the agent from then on (it is closed also on failure).
/// Returns within a second or so: 0, or an errno (EBUSY: already sampling). Any thread, in no lock
/// of the C library or its loader. `part` is an AttachPart.
extern "C" __attribute__((visibility("default"))) int echion_attach(int control_fd, int part) {
    if (part == echion::kAgentBeside) {
        return echion::agent::start_beside();
    }
    echion::UniqueFd control(control_fd);
    const int error =
        part == echion::kAgentApart
            ? echion::agent::start_apart(control.get())
            : echion::agent::start_threads([&](echion::agent::Assignment& assignment) {
                  assignment.control_fd = control.get();
                  assignment.facts.helper_tids[0] = echion::own_thread_id();
              });
    if (error == 0) {
        (void)control.release();
    }
    return error;
}

/// In front of the C library's pthread_condattr_setclock(): see python_start.h.
extern "C" __attribute__((visibility("default"))) int echion_condattr_setclock(
    pthread_condattr_t* attributes, clockid_t clock) __asm__("pthread_condattr_setclock");

int echion_condattr_setclock(pthread_condattr_t* attributes, clockid_t clock) {
    using namespace echion::agent;
    if (g_agent.is_listening.load() && !may_have_stuck_locks()) {
        const UnseenWork unseen;
        if (const auto runtime = find_calling_python(__builtin_return_address(0))) {
            on_python_start(runtime.value());
        }
    }
    const SetClock set_clock = find_set_clock();
    return set_clock != nullptr ? set_clock(attributes, clock) : ENOSYS;
}
