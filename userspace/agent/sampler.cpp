#include "agent/sampler.h"

#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "agent/cpu_share.h"
#include "agent/dump.h"
#include "agent/layout_proof.h"
#include "agent/python_start.h"
#include "agent/sampler_requests.h"
#include "base/clock.h"
#include "cpython/locate.h"
#include "engine/agent_timer.h"
#include "engine/signalled_timer.h"
#include "platform/own_scheduling.h"
#include "platform/own_thread.h"
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

sampling::TaskMode task_mode_of(control::TaskMode mode) {
    switch (mode) {
        case control::TaskMode::kAll:
            break;
        case control::TaskMode::kRunning:
            return sampling::TaskMode::kRunning;
        case control::TaskMode::kNone:
            return sampling::TaskMode::kNone;
    }
    return sampling::TaskMode::kAll;
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
        configure->max_frames == 0 || configure->max_frames > stream::kMaxFrames ||
        configure->tasks > control::TaskMode::kNone) {
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
    options.tasks = task_mode_of(configure->tasks);
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
    const auto may_sample = proof.look(*located);
    if (!may_sample) {
        return tl::unexpected(may_sample.error());
    }
    bool has_ticked = *may_sample;
    if (has_ticked) {
        sampler.tick(monotonic_ns());
    }
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
    SamplerRequests requests(channel, dump, proof);
    while (timer->wait(requests)) {
        const std::int64_t now_ns = monotonic_ns();
        const auto may_tick = proof.look(*located);
        if (!may_tick) {
            refusal = tl::unexpected(may_tick.error());
            break;
        }
        if (*may_tick) {
            has_ticked = true;
            sampler.tick(now_ns);
        }
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
            const bool is_for_next = has_ticked && !sampler.has_python() &&
                                     facts.next_python->load() == kNextPythonWaits;
            if (!refusal || is_for_next || ending.has_come(now_ns, channel, ring)) {
                break;
            }
        }
    }
    dump.stop();
    if (proof.allows_samples()) {
        sampler.stop(monotonic_ns());
    } else {
        sampler.abandon();
    }
    publish_timing(ring, timer->counts(), io.cpu_ns());
    ring.end();
    if (refusal && !has_ticked) {
        refusal = proof.explain_none(*located);
    }
    return refusal ? timer->status() : refusal;
}

}  // namespace

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
