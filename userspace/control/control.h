#pragma once

#include <cstdint>

/// The control channel between the command-line program and one agent: a SOCK_SEQPACKET pair, one
/// message a packet, descriptors beside it by SCM_RIGHTS. Fixed layout, native endian, the same for
/// a 32-bit and a 64-bit build. Both sides check size, magic and version of every message.
///
///     launch                                   attach
///     agent: makes a socket pair, sends one    CLI: makes the pair inside the target by remote
///     end over the inherited rendezvous        system call, fetches its end
///     socket
///     agent ── Hello ──────────────► CLI
///     agent ◄─ Configure + ring fd ─ CLI            (+ descriptors named by `fd_kinds`)
///     agent ── Arm ────────────────► CLI            with BPF or kPerfTicks only: the sampler is
///                                                   ready for ticks
///     agent ◄─ Armed ─────────────── CLI
///     agent ── Started | Failed ───► CLI
///     agent ◄─ Stop ──────────────── CLI
///     agent ── Stopped ────────────► CLI            the sampler has ended, nothing is left running
///
/// Either side that finds the channel hung up acts as if it had been told to stop. A target that
/// has closed the agent's end is sampled on, and stopped through the ring's header. The agent sends
/// nothing between Hello and Configure, no message twice, and all of them from its own process: the
/// kernel tells the CLI who sent them.
namespace echion::control {

constexpr std::uint32_t kMagic = 0x4e484345;  // "ECHN"
constexpr std::uint32_t kVersion = 6;

/// Threads that an agent adds to its process while it samples.
constexpr unsigned kAgentThreads = 2;

/// Threads that an injection makes in the target, and that have ended soon.
constexpr unsigned kHelperThreads = 2;

/// Environment variable of a launched command: "<fd>:<inode of the rendezvous socket>". The agent
/// uses the descriptor only if it is a socket with that inode, so that a process that closed and
/// reused the number is left alone.
constexpr char kRendezvousVariable[] = "ECHION_CHANNEL";

enum class MessageType : std::uint32_t {
    kHello = 1,
    kConfigure = 2,
    kStarted = 3,
    kFailed = 4,
    kStop = 5,
    kStopped = 6,
    kConnect = 7,
    kArm = 8,
    kArmed = 9,
};

struct Header {
    std::uint32_t magic;
    std::uint32_t version;
    MessageType type;
    std::uint32_t size_bytes;  // of the whole message
};

/// Agent → CLI, launch only, and the only message on the rendezvous socket (SOCK_SEQPACKET, shared
/// by all descendants of the command): one descriptor goes with it, an end of a fresh
/// SOCK_SEQPACKET pair, which becomes this agent's control channel; all else travels there. Who
/// sent it, the CLI learns from the kernel (SCM_CREDENTIALS). Send it with MSG_DONTWAIT |
/// MSG_NOSIGNAL.
struct Connect {
    Header header;
};

/// Agent → CLI: first message on the channel, as soon as the agent finds itself in a Python
/// process.
struct Hello {
    Header header;
    char agent_version[32];  // NUL-terminated
    std::uint32_t pid;       // as the target sees itself
    std::uint32_t pointer_bytes;
};

enum class Mode : std::uint32_t { kWall = 0, kCpu = 1, kMemory = 2 };

/// Which tasks of event loops are in the profile.
enum class TaskMode : std::uint32_t {
    kAll = 0,      ///< Suspended ones have stacks of their own.
    kRunning = 1,  ///< Those that threads run, in the stacks of these, with all that wait for them.
    kNone = 2,
};

enum ConfigureFlag : std::uint32_t {
    kStealth = 1,    ///< Do not account for the sampler thread.
    kNoFollow = 2,   ///< Do not follow threads to their CPUs (for measurements).
    kPerfTicks = 4,  ///< Without BPF, but Arm will be answered (CPU mode): ask for ticks.
};

/// What the descriptor at the same position beside a Configure message is for.
enum class FdKind : std::uint32_t {
    kNone = 0,
    kRing = 1,          ///< The shared ring (shared memory: stream/ring.h).
    kBpfState = 2,      ///< CPU state map, read-only.
    kBpfSnapshots = 3,  ///< BPF ring buffer of snapshots.
};

/// One of each kind. Perf events stay with the CLI, so that they end with it and take no
/// descriptors of the target.
constexpr std::uint32_t kMaxFds = 3;

/// CLI → agent.
struct Configure {
    Header header;
    std::uint64_t interval_ns;
    std::int64_t
        clock_ahead_ns;  // this process's CLOCK_MONOTONIC less the kernel's, with kBpfState
    Mode mode;
    std::uint32_t flags;       // set of ConfigureFlag
    std::uint32_t max_frames;  // of one stack
    TaskMode tasks;            // known values only
    std::uint32_t fd_count;
    FdKind fd_kinds[kMaxFds];
    std::uint32_t kernel_target;  // this process's number in the CPU state map, with kBpfState
    std::uint32_t reserved;       // 0; equally large on 32 and 64 bits
};

/// The signal of the kernel's ticks, SIGRTMAX - 1: a real-time one, whose arrivals queue, and that
/// hardly any program uses. The agent may not ask for another.
constexpr std::int32_t kTickSignal = 63;
/// In its place, where the agent may not wait for signals (rt_sigtimedwait is refused, by a seccomp
/// filter most likely): it is not to be armed.
constexpr std::int32_t kNoSignal = 0;

/// Agent → CLI, once, if Configure came with kBpfState or kPerfTicks: the sampler thread waits for
/// `signal`, which is blocked in it. The CLI points the timers at it: in CPU mode ticks of the
/// target's own threads, in wall mode one every interval. No ticks come before this.
struct Arm {
    Header header;
    std::uint32_t sampler_tid;                  // as the target sees it
    std::int32_t signal;                        // kTickSignal, or kNoSignal
    std::uint32_t io_tid;                       // the agent's other thread, as the target sees it
    std::uint32_t helper_tids[kHelperThreads];  // those of an injection, which may have ended; or 0
    /// echion_snapshot_layout of bpf/abi.h; all zero: no snapshots.
    std::uint8_t snapshot_layout[64];
};

/// CLI → agent: the answer. When not armed, the agent keeps time by itself.
struct Armed {
    Header header;
    std::uint32_t armed;        // 1: ticks will come; 0: they will not
    std::uint32_t snapshots;    // 1: and snapshots with them
    std::uint64_t interval_ns;  // of the ticks: may be longer than asked for (kernel's rate limit)
    std::int32_t system_errno;  // when not armed
    std::uint32_t padding;      // 64-bit builds would add it, 32-bit ones would not
};

/// Started::raised_by of a sampler that is scheduled before all ordinary threads (SCHED_RR).
constexpr std::int32_t kRealtime = 100;

/// Agent → CLI: the first tick has been taken.
struct Started {
    Header header;
    std::uint32_t python_version;  // major << 16 | minor << 8 | micro
    std::uint32_t sampler_tid;     // as the target sees it
    std::uint32_t shares_table;    // 1: the sampler has no descriptor table of its own
    std::int32_t raised_by;  // so much lower than the program's is its nice value, or kRealtime
};

/// Agent → CLI: it will not sample; the channel closes after this.
struct Failed {
    Header header;
    std::uint32_t error_kind;  // echion::ErrorKind
    std::int32_t system_errno;
    char what[112];  // NUL-terminated, UTF-8
};

struct Stop {
    Header header;
};

struct Stopped {
    Header header;
};

static_assert(sizeof(Header) == 16);
static_assert(sizeof(Connect) == 16);
static_assert(sizeof(Hello) == 56);
static_assert(sizeof(Configure) == 72);
static_assert(sizeof(Arm) == 100);
static_assert(sizeof(Armed) == 40);
static_assert(sizeof(Started) == 32);
static_assert(sizeof(Failed) == 136);

}  // namespace echion::control
