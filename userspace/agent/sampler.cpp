#include "agent/sampler.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "agent/cpu_share.h"
#include "agent/dump.h"
#include "agent/sampler_requests.h"
#include "base/clock.h"
#include "cpython/layout_check.h"
#include "cpython/locate.h"
#include "engine/agent_timer.h"
#include "engine/signalled_timer.h"
#include "platform/own_scheduling.h"
#include "platform/own_thread.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"
#include "platform/program_image.h"
#include "platform/thread_clock.h"
#include "sampling/cpu_watch.h"
#include "sampling/stack_sampler.h"
#include "stream/ring.h"

namespace echion::agent {
namespace {

using sampling::CpuWatch;
using sampling::ProcessFacts;
using sampling::PythonStart;
using sampling::SamplerOptions;
using sampling::StackSampler;
using stream::Counter;

// Waits for Python's start: a share of the time that it has taken so far, as what happens meanwhile
// is missing from the profile. To look for Python takes some hundred microseconds; to look whether
// one that was found has started, some.
constexpr std::int64_t kMinSearchWaitNs = 500'000;
constexpr std::int64_t kMaxSearchWaitNs = 20'000'000;
constexpr std::int64_t kSearchWaitShare = 8;
constexpr std::int64_t kSearchAgainShare = 2;
constexpr std::int64_t kMinLookWaitNs = 200'000;
constexpr std::int64_t kMaxLookWaitNs = 5'000'000;
constexpr std::int64_t kLookWaitShare = 64;

Status open_reader(ProcessReader& reader) {
    const int probe = 0;
    return reader.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(&probe)));
}

/// With the version, where it is one that there is no layout for.
Error name_version(const Error& error, const cpython::LocatedRuntime& located) {
    const cpython::Version& version = located.view.version;
    if (error.kind != ErrorKind::kUnsupportedVersion || version.major == 0) {
        return error;
    }
    static char text[96];  // of the one sampler that there is
    std::snprintf(text, sizeof(text), "it runs CPython %u.%u.%u; supported are %s", version.major,
                  version.minor, version.micro, cpython::kSupportedVersions);
    return {error.kind, error.system_errno, text};
}

/// The runtime as it is now; kNotReady when Python has not started yet.
Result<cpython::LocatedRuntime> find_python() {
    ProcessReader reader;
    cpython::LocatedRuntime located;
    if (auto status = open_reader(reader); !status) {
        return tl::unexpected(status.error());
    }
    if (auto status = cpython::locate_runtime(reader, kOwnProcess, located); !status) {
        return tl::unexpected(name_version(status.error(), located));
    }
    if (!located.is_ready) {
        return fail(ErrorKind::kNotReady, "Python has not started yet");
    }
    return located;
}

PythonStart start_after_now() {
    return {monotonic_ns(), read_clock_ns(thread_cpu_clock(static_cast<std::uint32_t>(getpid())))};
}

/// Waits until a runtime that was found has started, at most `wait_ns`; true when told to stop.
/// `start`: as below.
bool wait_for_start(Channel& channel, MemoryReader& reader, const cpython::LocatedRuntime* found,
                    std::int64_t begin_ns, std::int64_t wait_ns, PythonStart& start) {
    if (found == nullptr) {
        return channel.wait_for_stop(wait_ns);
    }
    const std::int64_t end_ns = monotonic_ns() + wait_ns;
    for (;;) {
        const PythonStart look = start_after_now();
        if (cpython::check_ready(reader, found->view)) {
            break;
        }
        start = look;
        if (look.after_ns >= end_ns) {
            break;
        }
        if (channel.wait_for_stop(std::clamp((look.after_ns - begin_ns) / kLookWaitShare,
                                             kMinLookWaitNs, kMaxLookWaitNs))) {
            return true;
        }
    }
    return false;
}

Result<cpython::LocatedRuntime> told_to_stop() {
    return fail(ErrorKind::kNotReady, "told to stop before Python had started");
}

/// The same for a runtime that was found when the program began, without opening a file.
Result<cpython::LocatedRuntime> wait_for_found(Channel& channel,
                                               const cpython::LocatedRuntime& found,
                                               PythonStart& start) {
    ProcessReader reader;
    if (auto status = open_reader(reader); !status) {
        return tl::unexpected(status.error());
    }
    const std::int64_t begin_ns = monotonic_ns();
    while (!cpython::check_ready(reader, found.view)) {
        if (wait_for_start(channel, reader, &found, begin_ns, kMaxLookWaitNs, start) ||
            channel.is_lost()) {
            return told_to_stop();
        }
    }
    return found;
}

/// `start`: when Python was last looked for and had not started.
Result<cpython::LocatedRuntime> wait_for_python(Channel& channel, ProgramThreads& program,
                                                PythonStart& start) {
    ProcessReader reader;
    if (auto status = open_reader(reader); !status) {
        return tl::unexpected(status.error());
    }
    const std::int64_t begin_ns = monotonic_ns();
    for (;;) {
        cpython::LocatedRuntime located;
        const PythonStart look = start_after_now();
        const Status status = cpython::locate_runtime(reader, kOwnProcess, located);
        if (status && located.is_ready) {
            return located;
        }
        start = look;
        if (!status && status.error().kind != ErrorKind::kNotReady) {
            return tl::unexpected(name_version(status.error(), located));
        }
        if (channel.has_own_table() && program.is_over()) {
            return fail(ErrorKind::kNotReady, "the program ended before Python had started");
        }
        // Others may be loaded meanwhile, so it is looked for all again from time to time.
        const std::int64_t share = status ? kSearchAgainShare : kSearchWaitShare;
        const std::int64_t wait_ns =
            std::clamp((monotonic_ns() - begin_ns) / share, kMinSearchWaitNs, kMaxSearchWaitNs);
        if (wait_for_start(channel, reader, status ? &located : nullptr, begin_ns, wait_ns,
                           start) ||
            channel.is_lost()) {
            return told_to_stop();
        }
    }
}

/// The figures that only the thread's own loop knows.
void publish_timing(stream::RingProducer& ring, const engine::TimerCounts& timer,
                    std::int64_t io_thread_ns = 0) {
    ring.set(Counter::kLateTicks, timer.late);
    ring.set(Counter::kMissedTicks, timer.missed);
    ring.set(Counter::kWaits, timer.system_calls);
    ring.set(Counter::kSamplerCpuNs,
             static_cast<std::uint64_t>(read_clock_ns(CLOCK_THREAD_CPUTIME_ID) + io_thread_ns));
}

/// What the BPF programs tell of this process; closed where there are none. Without them the
/// sampler does as well as it can by itself.
CpuWatch open_watch(const Channel& channel, const control::Configure& configure,
                    const ProcessFacts& facts) {
    CpuWatch watch;
    if (const int state_fd = channel.find_fd(configure, control::FdKind::kBpfState);
        state_fd >= 0) {
        // The programs enter a thread in their table when it is next switched: this one may have
        // run without a pause since the process was put under watch.
        const timespec moment = make_timespec(1);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
        (void)watch.open(state_fd, configure.kernel_target, configure.clock_ahead_ns,
                         channel.find_fd(configure, control::FdKind::kBpfSnapshots), facts);
    }
    return watch;
}

/// Where the kernel's ticks are offered: asks for them, and starts the timer if they come.
Status arm_kernel_ticks(Channel& channel, StackSampler& sampler, StackDump& dump,
                        const SamplerOptions& options, const GuestFacts& facts,
                        engine::AgentTimer& timer) {
    if (!timer.needs_arming()) {
        return {};
    }
    const int signal =
        engine::SignalledTimer::may_wait() ? control::kTickSignal : control::kNoSignal;
    const echion_snapshot_layout layout = sampler.watch_layout();
    const auto armed = channel.arm(own_thread_id(), facts, signal, &layout, sizeof(layout));
    if (!armed) {
        return tl::unexpected(armed.error());
    }
    if (armed->armed == 0) {
        return {};
    }
    if (auto status = channel.signal_arrivals(signal, static_cast<pid_t>(own_thread_id()));
        !status) {
        return status;
    }
    dump.signal_requests();
    const auto interval_ns = static_cast<std::int64_t>(armed->interval_ns);
    timer.start({signal, interval_ns, options.cpu_mode, monotonic_ns()});
    sampler.use_kernel_ticks(interval_ns);
    return {};
}

/// Whether the row of this Python's version is true of it, before the first sample is taken by it.
class LayoutProof {
  public:
    Status make() {
        auto check = cpython::LayoutCheck::make();
        if (!check) {
            return tl::unexpected(check.error());
        }
        check_ = std::move(*check);
        return open_reader(reader_);
    }

    /// Looks, unless it is proved. kUnsupportedVersion if it is refuted.
    Status look(const cpython::LocatedRuntime& located, std::int64_t now_ns) {
        if (is_proved_ || (looks_ > kEagerLooks && now_ns - looked_ns_ < kLookNs)) {
            return {};
        }
        ++looks_;
        looked_ns_ = now_ns;
        const Status status = check_.check(reader_, located.view);
        is_proved_ = static_cast<bool>(status);
        if (!status && status.error().kind == ErrorKind::kInvalid) {
            static char text[160];  // of the one sampler that there is
            const cpython::Version& version = located.view.version;
            std::snprintf(text, sizeof(text),
                          "its memory is not as CPython %u.%u.%u has it: %s; a pre-release, or a "
                          "build that was changed?",
                          version.major, version.minor, version.micro, status.error().what);
            return fail(ErrorKind::kUnsupportedVersion, text);
        }
        return {};
    }

  private:
    // Then only now and then: a program may run no Python code for as long as it likes.
    static constexpr std::uint32_t kEagerLooks = 100;
    static constexpr std::int64_t kLookNs = 100'000'000;

    cpython::LayoutCheck check_;
    ProcessReader reader_;
    std::uint32_t looks_ = 0;
    std::int64_t looked_ns_ = kLongAgoNs;
    bool is_proved_ = false;
};

/// The ends of sampling that the channel does not tell of.
class OtherEnding {
  public:
    OtherEnding(ProgramThreads& program, std::int64_t now_ns)
        : program_(program), heard_ns_(now_ns) {}

    /// Whether one has come. To be asked now and then; looks at more than the ring every kLookNs.
    bool has_come(std::int64_t now_ns, const Channel& channel, const stream::RingProducer& ring) {
        if (ring.is_stop_requested()) {
            return true;
        }
        if (now_ns - looked_ns_ < kLookNs) {
            return false;
        }
        looked_ns_ = now_ns;
        if (const std::uint64_t looks = ring.consumer_looks();
            looks != consumer_looks_ || !channel.is_lost()) {
            consumer_looks_ = looks;
            heard_ns_ = now_ns;
        }
        if (now_ns - heard_ns_ > kPatienceNs) {
            return true;
        }
        // Looking takes a descriptor. Where that would be one of the program's, the other side
        // looks alone.
        return channel.has_own_table() && program_.is_over();
    }

  private:
    static constexpr std::int64_t kLookNs = 100'000'000;
    // Without a channel, the other side's death shows by its reading no more. It reads many times a
    // second, but may be stopped for a while.
    static constexpr std::int64_t kPatienceNs = 10 * kNanosPerSecond;

    ProgramThreads& program_;
    std::int64_t looked_ns_ = kLongAgoNs;
    std::int64_t heard_ns_;
    std::uint64_t consumer_looks_ = 0;
};

Status sample_until_stopped(Channel& channel, const GuestFacts& facts,
                            const cpython::LocatedRuntime* found, IoThread& io,
                            ProgramThreads& program) {
    // An attachment finds Python running, and the other side busy with what it loads into the
    // kernel: here is time to look.
    const bool is_found = found != nullptr && !channel.has_own_table();
    // On a busy machine Python can have started before this thread came here.
    PythonStart start{facts.is_launch ? facts.asked_ns : monotonic_ns(), facts.used_cpu_ns};
    std::int32_t raised_by = set_low_latency();
    auto located = is_found ? Result<cpython::LocatedRuntime>(
                                  fail(ErrorKind::kNotReady, "Python has not started yet"))
                            : find_python();
    const auto configure = channel.receive_configure();
    if (!configure) {
        return tl::unexpected(configure.error());
    }
    if (configure->mode == control::Mode::kMemory || configure->interval_ns == 0 ||
        configure->max_frames == 0 || configure->max_frames > stream::kMaxFrames) {
        return fail(ErrorKind::kProtocol, "a configuration that this agent does not know");
    }
    auto mapping = stream::RingMapping::open(channel.find_fd(*configure, control::FdKind::kRing));
    if (!mapping) {
        return tl::unexpected(mapping.error());
    }
    stream::RingProducer ring(std::move(*mapping));
    if (!facts.is_launch) {
        start.after_ns = monotonic_ns();  // it is sampled from the attachment on
    }
    ProcessFacts process = facts;
    process.sampler_tid = own_thread_id();
    CpuWatch watch = open_watch(channel, *configure, process);
    // Before Python's start, after which a program closes descriptors that it does not know, and
    // may be given their numbers for its own.
    channel.close_received();
    io.settle();

    if (!located) {
        located = is_found ? wait_for_found(channel, *found, start)
                           : wait_for_python(channel, program, start);
    }
    if (!located) {
        return tl::unexpected(located.error());
    }
    set_and_wake(*facts.next_python, kNoNextPython);  // this is the one
    SamplerOptions options;
    options.interval_ns = configure->interval_ns;
    options.max_frames = configure->max_frames;
    options.cpu_mode = configure->mode == control::Mode::kCpu;
    // Flat out, following would leave the thread that is followed no time to run.
    options.follow = (configure->flags & control::kNoFollow) == 0 &&
                     configure->interval_ns >= sampling::kLeastFollowIntervalNs;
    if (options.cpu_mode && !watch.is_open() && read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) == 0) {
        return fail(ErrorKind::kRefused, "read CPU time: clock_gettime is refused", EPERM);
    }
    // Flat out it would leave others nothing.
    if (options.follow && become_realtime(raised_by)) {
        raised_by = control::kRealtime;
    }
    process.static_bytes = facts.static_bytes_from(located->view.runtime);
    StackSampler sampler;
    if (auto status = sampler.start(located->view, options, std::move(watch), process, ring, start);
        !status) {
        return status;
    }
    StackDump dump;
    // Without the memory for dumps there are none: no reason not to sample.
    (void)dump.start(*located, options.max_frames, facts, io);
    const auto interval_ns = static_cast<std::int64_t>(options.interval_ns);
    engine::AgentTimer timer({configure->flags, sampler.watch().is_open(), options.cpu_mode});
    if (auto status = arm_kernel_ticks(channel, sampler, dump, options, facts, timer); !status) {
        return status;
    }
    LayoutProof proof;
    if (auto status = proof.make(); !status) {
        return status;
    }
    if (auto status = proof.look(*located, monotonic_ns()); !status) {
        return status;
    }
    sampler.tick(monotonic_ns());
    const cpython::Version version = located->view.version;
    channel.send_started(
        static_cast<std::uint32_t>(version.major << 16 | version.minor << 8 | version.micro),
        own_thread_id(), raised_by);

    if (!timer.is_started()) {
        timer.start_clock(interval_ns, monotonic_ns());
    }
    std::int64_t published_ns = kLongAgoNs;
    OtherEnding ending(program, monotonic_ns());
    Status refusal;
    const bool owes_cpu = options.follow || is_realtime();
    CpuShare share(interval_ns, monotonic_ns());
    SamplerRequests requests(channel, dump);
    while (timer->wait(requests)) {
        const std::int64_t now_ns = monotonic_ns();
        if (sampler.has_python()) {
            refusal = proof.look(*located, now_ns);
        }
        if (!refusal) {
            break;
        }
        sampler.tick(now_ns);
        if (owes_cpu) {
            if (const auto rest_ns = share.find_rest_ns(now_ns, monotonic_ns()); rest_ns != 0) {
                sampler.rest(rest_ns);
                share.end_rest(monotonic_ns());
            }
        }
        if (now_ns - published_ns >= engine::kHousekeepingNs) {
            published_ns = now_ns;
            publish_timing(ring, timer->counts());
            dump.keep_signal(now_ns);
            refusal = sampler.check_access();
            const bool is_for_next =
                !sampler.has_python() && facts.next_python->load() == kNextPythonWaits;
            if (!refusal || is_for_next || ending.has_come(now_ns, channel, ring)) {
                break;
            }
        }
    }
    dump.stop();
    sampler.stop(monotonic_ns());
    publish_timing(ring, timer->counts(), io.cpu_ns());
    ring.end();
    return refusal ? timer->status() : refusal;
}

}  // namespace

bool ProgramThreads::is_over() {
    const OtherThreads others = look_at_other_threads(kOwnProcess, control::kAgentThreads);
    was_first_outlived_ = was_first_outlived_ || others == OtherThreads::kWithoutFirst;
    return others == OtherThreads::kNone;
}

int ProgramThreads::read_status() const {
    return was_first_outlived_ ? 0 : read_first_thread_status(kOwnProcess);
}

void run_sampler(Channel& channel, const GuestFacts& facts, const cpython::LocatedRuntime* found,
                 IoThread& io, ProgramThreads& program) {
    if (!channel.send_hello()) {
        return;
    }
    Status status = sample_until_stopped(channel, facts, found, io, program);
    if (channel.cannot_wait()) {
        status = fail(ErrorKind::kRefused, "wait: ppoll and clock_nanosleep are refused", EPERM);
    }
    if (!status) {
        channel.send_failed(status.error());
        return;
    }
    // One that ends by itself, with the program, hangs up, as programs do.
    if (channel.was_told_to_stop()) {
        channel.send_stopped();
    }
}

}  // namespace echion::agent
