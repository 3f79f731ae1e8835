#include "agent/dump.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "base/clock.h"
#include "platform/own_thread.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "report/text_report.h"

namespace echion::agent {
namespace {

constexpr int kSignal = SIGQUIT;
constexpr std::size_t kBufferBytes = std::size_t{64} << 10;
// How long stop() waits for a handler that is just waking the sampler.
constexpr std::int64_t kHandlerWaitNs = 100'000'000;

/// What the signal's handler works with. A global, as a handler has nowhere else to find anything.
struct Gate {
    std::atomic<bool> requested{false};
    std::atomic<bool> is_open{false};     // dumps have been started
    std::atomic<bool> is_taken{false};    // our handler has been installed since then
    std::atomic<pid_t> sampler{0};        // the thread to wake; 0: it looks by itself
    std::atomic<int> users{0};            // handlers that may be waking it
    std::atomic<pid_t> owner{0};          // the process that has the sampler
    std::atomic<bool> is_chained{false};  // the application's handler may have ours as its next
    struct sigaction previous {};         // written while ours is not installed, or is not reached
};
Gate g_gate;

using Handler = void (*)(int, siginfo_t*, void*);

bool is_real(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 ||
           (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

bool is_ignored(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) == 0 && action.sa_handler == SIG_IGN;
}

void on_signal(int signal, siginfo_t* info, void* context) {
    const int saved_errno = errno;
    const struct sigaction previous = g_gate.previous;
    if (g_gate.owner.load() != getpid()) {
        // A child made without the fork handlers: nobody here answers. The signal is blocked in its
        // handler, and comes again, to whom it belonged, when this returns.
        sigaction(signal, &previous, nullptr);
        kill(getpid(), signal);
        errno = saved_errno;
        return;
    }
    g_gate.requested.store(true);
    g_gate.users.fetch_add(1);
    if (const pid_t sampler = g_gate.sampler.load(); sampler != 0) {
        // Not a real-time signal, for which there may be no room.
        signal_thread(g_gate.owner.load(), sampler, SIGIO);
    }
    g_gate.users.fetch_sub(1);
    errno = saved_errno;
    // Last, as it need not return.
    if (!is_real(previous)) {
        return;
    }
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(signal, info, context);
    } else {
        previous.sa_handler(signal);
    }
}

bool is_ours(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == Handler{on_signal};
}

/// The address that is called, for comparing.
void* entry_of(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) != 0 ? reinterpret_cast<void*>(action.sa_sigaction)
                                               : reinterpret_cast<void*>(action.sa_handler);
}

/// Finds the executable part of the file that is mapped at `base`. Empty when there is none.
void find_code(Address base, Address& start, Address& end) {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    start = end = Address();
    (void)for_each_mapped_range(kOwnProcess, [&](const MappedRange& range) {
        if (range.start == base) {
            device = range.device;
            inode = range.inode;
        }
        const bool is_found = inode != 0 && range.executable && range.inode == inode &&
                              range.device == device && range.start >= base;
        if (is_found) {
            start = range.start;
            end = range.end;
        }
        return !is_found;
    });
}

/// Gives the signal back. Signal-safe.
void give_signal_back() {
    struct sigaction current {};
    if (!g_gate.is_taken.exchange(false) || sigaction(kSignal, nullptr, &current) != 0) {
        return;
    }
    if (is_ours(current)) {
        sigaction(kSignal, &g_gate.previous, nullptr);
    } else if (is_real(current)) {
        g_gate.is_chained.store(true);
    }
}

/// Puts our handler in front of `previous`, which is the one that is installed.
void install(const struct sigaction& previous) {
    g_gate.previous = previous;
    struct sigaction ours {};
    ours.sa_sigaction = on_signal;
    ours.sa_mask = previous.sa_mask;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    // The system calls that it interrupts go on, unless the application's handler is one that wants
    // them interrupted.
    ours.sa_flags |= is_real(previous) ? previous.sa_flags & (SA_RESTART | SA_NODEFER) : SA_RESTART;
    struct sigaction replaced {};
    if (sigaction(kSignal, &ours, &replaced) != 0) {
        return;
    }
    if (!is_ours(replaced)) {
        g_gate.previous = replaced;  // had it changed meanwhile
    }
    g_gate.is_taken.store(true);
    if (is_ignored(g_gate.previous)) {
        give_signal_back();
    }
}

void take_signal() {
    struct sigaction current {};
    // Behind another handler that may call ours, ours must not be in front of it as well: they
    // would call each other for ever.
    if (g_gate.is_chained.load() || sigaction(kSignal, nullptr, &current) != 0 ||
        is_ours(current) || is_ignored(current)) {
        return;
    }
    install(current);
}

}  // namespace

Status StackDump::start(const cpython::LocatedRuntime& runtime, std::size_t max_frames,
                        const GuestFacts& facts, IoThread& io) {
    const cpython::RuntimeView& view = runtime.view;
    capture::ProcessCapture::Limits limits;
    limits.max_frames = max_frames;
    limits.tasks = true;
    auto report = report::ProcessReport::make(view, limits);
    auto buffer = FixedArray<char>::make(kBufferBytes);
    if (!report || !buffer) {
        return fail(ErrorKind::kNoSpace, "reserve memory for dumps");
    }
    if (auto status = reader_.open_own(); !status) {
        return status;
    }
    view_ = view;
    find_code(runtime.module_base, code_start_, code_end_);
    report_.emplace(std::move(*report));
    buffer_ = std::move(*buffer);
    same_cpu_.open(facts.thread_area_offset);
    wants_colours_ = facts.wants_colours;
    io_ = &io;
    g_gate.requested.store(false);
    g_gate.owner.store(getpid());
    g_gate.is_open.store(true);
    take_signal();
    return {};
}

void StackDump::stop() {
    if (!report_) {
        return;
    }
    give_signal_back();
    g_gate.is_open.store(false);
    g_gate.sampler.store(0);
    // A handler that has just read the thread's id must not find another thread under it.
    const std::int64_t until_ns = monotonic_ns() + kHandlerWaitNs;
    while (g_gate.users.load() != 0 && monotonic_ns() < until_ns) {
        sched_yield();
    }
    report_.reset();
}

void StackDump::forget_after_fork() {
    if (!g_gate.is_open.exchange(false)) {
        return;
    }
    give_signal_back();
    g_gate.sampler.store(0);
    g_gate.users.store(0);
    g_gate.requested.store(false);
}

void StackDump::keep_signal(std::int64_t now_ns) {
    if (!report_ || now_ns - looked_ns_ < kLookNs) {
        return;
    }
    looked_ns_ = now_ns;
    struct sigaction current {};
    if (sigaction(kSignal, nullptr, &current) != 0 || is_ours(current) || !is_real(current)) {
        return;
    }
    // Any other handler may call ours in its turn: that one is left in front.
    if (is_python_s(current)) {
        install(current);
    }
}

bool StackDump::is_python_s(const struct sigaction& action) const {
    // Python has one handler in C for all signals that Python code handles; SIGINT is one of them
    // from the start, unless the program was started with it ignored, or has given it up.
    struct sigaction interrupt {};
    if (sigaction(SIGINT, nullptr, &interrupt) == 0 && is_real(interrupt) &&
        entry_of(action) == entry_of(interrupt)) {
        return true;
    }
    // Then it is known by its place and by the flags that CPython sets (Python/pylifecycle.c,
    // PyOS_setsig). faulthandler's, which calls the one before it, has others.
    const Address entry(reinterpret_cast<std::uintptr_t>(entry_of(action)));
    return (action.sa_flags & (SA_SIGINFO | SA_NODEFER | SA_RESTART)) == 0 &&
           entry >= code_start_ && entry < code_end_;
}

void StackDump::signal_requests() {
    if (report_) {
        g_gate.sampler.store(static_cast<pid_t>(own_thread_id()));
    }
}

void StackDump::serve() {
    if (report_ && g_gate.requested.load(std::memory_order_relaxed) &&
        g_gate.requested.exchange(false)) {
        write_dump();
    }
}

void StackDump::write_dump() {
    const auto info = read_process_info(kOwnProcess);
    report::ReportHeader header;
    header.pid = header.own_pid = getpid();
    header.command = info ? info->name : "python";
    header.version = view_.version;
    bool has_failed = false;
    const auto write = [&](std::string_view part) {
        has_failed = has_failed || !io_->write_error(part);
    };
    report::TextSink sink({buffer_.data(), buffer_.capacity()}, write);
    const bool has_colours = wants_colours_ && io_->is_terminal();
    report::TextReport text(sink,
                            has_colours ? report::Palette::colours() : report::Palette::none());
    if (const Status status = report_->write(reader_, same_cpu_, kOwnProcess, header, text);
        !status) {
        sink.put("echion: no stacks to show: ");
        sink.put(status.error().what);
        sink.put('\n');
    }
}

}  // namespace echion::agent
