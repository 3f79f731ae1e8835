#include "agent/agent_threads.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>

#include "agent/agent_state.h"
#include "agent/descriptors.h"
#include "agent/dump.h"
#include "agent/guest.h"
#include "agent/io_thread.h"
#include "agent/late_python.h"
#include "agent/process_end.h"
#include "agent/sampler.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "platform/own_descriptors.h"
#include "platform/own_thread.h"
#include "platform/wake_word.h"

namespace echion::agent {

enum Sampler : std::uint32_t { kNoneYet, kMade, kNotMade };

/// What both threads work with. Lies in a mapping of its own, which the IoThread ends.
struct Assignment {
    StartRequest request;
    GuestFacts facts;
    pthread_t sampler{};
    WakeWord sampler_state{kNoneYet};  // Sampler
    IoThread io;
    // Written by the sampler, for the IoThread.
    std::atomic<bool> has_own_table{false};
    bool was_told_to_stop = false;
    bool has_hung_up = false;
    bool is_last = false;    // no other thread of the program is left
    int program_status = 0;  // then; as wait(2) tells it
};

namespace {

// Room for the deepest call of the sampler (some 40 KiB), whatever `ulimit -s` or a small default
// of the C library says.
constexpr std::size_t kStackBytes = 256 * 1024;

// How long a program that has died may take to close its last descriptor: the kernel first undoes
// what else it had.
constexpr std::int64_t kLastDescriptorNs = 5 * kNanosPerSecond;

/// Closes this process's end of the rendezvous socket when the run is over. When only this agent's
/// part of it is, a Python that this process starts or becomes may still connect.
void leave_rendezvous(Assignment& assignment) {
    Rendezvous& rendezvous = assignment.request.rendezvous;
    if (assignment.was_told_to_stop ||
        rendezvous.is_abandoned(assignment.has_hung_up ? kLastDescriptorNs : 0)) {
        rendezvous.close();
    }
}

/// The channel of an attachment, or a new one to whoever started the program; none if there is
/// nobody.
Result<UniqueFd> open_channel(Assignment& assignment, bool has_own_table) {
    if (!assignment.request.rendezvous.is_there()) {
        UniqueFd given(assignment.request.control_fd);
        return move_up(std::move(given), has_own_table);
    }
    auto channel = assignment.request.rendezvous.connect(has_own_table);
    if (has_own_table) {
        Rendezvous(assignment.request.rendezvous).close();  // the copy
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
    const bool is_launch = assignment.request.rendezvous.is_there();
    const bool has_own_table = assignment.request.is_apart ||
                               leave_descriptor_table(is_launch ? assignment.request.rendezvous.fd()
                                                                : assignment.request.control_fd,
                                                      is_launch && !assignment.request.is_late);
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
    assignment.facts.io_thread_id = assignment.io.thread_id();
    const auto& found = assignment.request.found;
    ProgramThreads program;
    run_sampler(channel, assignment.facts, found ? &*found : nullptr, assignment.io, program);
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

/// Nothing of a start that has failed is left.
void forget_start() {
    g_agent.channel_fd.store(-1);
    g_agent.is_active.store(false);
    (void)start_next();
}

Error thread_failure(int error) {
    return {ErrorKind::kNoSpace, error, "the agent's threads cannot be made (ulimit -u, -v, -d)"};
}

/// Like report_failure(), when nobody waits any more who could do that: of a launch, or of an
/// attachment whose channel has been taken over and has to be closed, unless the program has closed
/// it.
void report_late_failure(const Assignment& assignment, int error) {
    if (assignment.request.rendezvous.is_there()) {
        report_failure(assignment.request.rendezvous, error);
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
    if (assignment.request.control_fd >= 0 && assignment.has_own_table.load()) {
        const int fd = g_agent.channel_fd.exchange(-1);
        if (is_socket(fd, g_agent.channel_id)) {
            close(fd);
        }
    }
}

/// Makes the sampler in the calling thread's descriptor table. 0 or an errno.
int make_sampler(Assignment& assignment) {
    ThreadAttributes attributes(assignment.facts.static_data.tls_bytes);
    return pthread_create(&assignment.sampler, attributes.get(), sampler_main, &assignment);
}

/// Makes the sampler, or waits until it is made apart. False if there is none: then another agent
/// may be active already.
bool await_sampler(Assignment& assignment) {
    if (assignment.request.is_apart) {
        g_agent.waiting.store(&assignment);
        (void)g_agent.start.tell(0);
        wait_while(assignment.sampler_state, kNoneYet);
        if (assignment.sampler_state.load() == kMade) {
            return true;
        }
        forget_start();
        return false;
    }
    const int error = make_sampler(assignment);
    if (error != 0 && !g_agent.start.tell(error)) {
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
        (void)g_agent.start.tell(0);
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

}  // namespace

void report_failure(const Rendezvous& rendezvous, int error) {
    if (auto socket = rendezvous.connect(false)) {
        Channel(std::move(*socket), false).send_failed(thread_failure(error));
    }
}

int start_threads(const StartRequest& request) {
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
    assignment->request = request;
    assignment->facts = collect_guest_facts();
    assignment->facts.is_launch = request.rendezvous.is_there() && !request.is_late;
    assignment->facts.is_late = request.is_late;
    assignment->facts.helper_tids[0] = request.helper_tid;
    assignment->facts.python_starts = &g_agent.python_starts;
    assignment->facts.next_python = &g_agent.next_python;
    if (request.control_fd >= 0) {
        g_agent.channel_id = identify(request.control_fd);
        g_agent.channel_fd.store(request.control_fd);
    }
    ThreadAttributes attributes(assignment->facts.static_data.tls_bytes);
    pthread_attr_setdetachstate(attributes.get(), PTHREAD_CREATE_DETACHED);
    g_agent.start.begin();
    pthread_t thread;
    int result = 0;
    {
        const BlockedSignals blocked;
        result = pthread_create(&thread, attributes.get(), io_main, assignment);
    }
    if (result == 0) {
        (void)memory->release();  // the thread's now
        // A sampler that is made apart has nothing to settle, but needs an IoThread that has begun.
        result = g_agent.start.await(request.is_apart ? -1 : kSettlingNs);
    }
    if (result != 0) {
        forget_start();
    }
    return result;
}

int start_apart(int control_fd, std::uint32_t helper_tid) {
    Assignment* assignment = g_agent.waiting.exchange(nullptr);
    if (assignment == nullptr) {
        return EINVAL;
    }
    assignment->request.control_fd = control_fd;
    assignment->facts.helper_tids[1] = helper_tid;
    int result = 0;
    {
        const BlockedSignals blocked;
        result = make_sampler(*assignment);
    }
    // The IoThread's memory may be gone behind this.
    set_and_wake(assignment->sampler_state, result == 0 ? kMade : kNotMade);
    return result;
}

}  // namespace echion::agent
