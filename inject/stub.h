#pragma once

#include <cstddef>
#include <cstdint>

/// The code that Echion runs inside the target, and the block of parameters it shares with it.
///
/// Both lie in one mapping that exists in the target for a few milliseconds:
///
///     region ┬ code, readable and executable           kStubCodeBytes
///            ├ StubParameters                          kStubParameterBytes
///            └ stack of the borrowed thread's call     kStubStackBytes
///
/// It is mapped readable and executable as a whole, the tracer writes into it, and the stub's first
/// act makes all but the code writable instead: so nothing is ever both writable and executable or
/// becomes executable, which hardened systems forbid.
///
/// The borrowed thread runs only echion_stub_spawn(), which makes a thread through the target's own
/// pthread_create() and goes back to what it was doing. That helper thread then does everything
/// that may take long or wait for a lock: it makes the control channel and the memory file, waits
/// until the image is in it, loads it, and calls the agent. So the borrowed thread never waits for
/// the dynamic loader, and nothing that it holds can deadlock with it.
///
/// Where Echion can fetch descriptors from a single thread, the helper makes a second one, which
/// leaves the program's descriptor table for one of its own and does all of that there: no number
/// is taken that the program expects. The first one then starts the part of the agent that has to
/// share the program's table, waits for the second one's end, and unmaps the region:
///
///     first helper                            second helper
///     pthread_create() ─────────────────────► a table of its own, channel, memory file
///                                             waits for the image, loads it
///     entry(-1, kAgentBeside) ◄────────────── kBesideWanted
///     kBesideDone ──────────────────────────► entry(channel, kAgentApart)
///     pthread_join() ◄─────────────────────── ends
///     munmap()
namespace echion::inject {

constexpr std::size_t kStubCodeBytes = 4096;
constexpr std::size_t kStubParameterBytes = 4096;
constexpr std::size_t kStubStackBytes = 24 * 4096;
constexpr std::size_t kRegionBytes = kStubCodeBytes + kStubParameterBytes + kStubStackBytes;

/// Where the borrowed thread is. Written by the stub, read by Echion.
enum SpawnState : std::uint32_t {
    kSpawning = 0,
    kSpawned = 1,       ///< The helper exists; waiting to be put back by the tracer.
    kSpawnFailed = 2,   ///< pthread_create() failed; waiting to be put back by the tracer.
    kLeavingAlone = 3,  ///< No tracer came: it puts itself back by sigreturn.
};

/// Who is done with the region.
enum HasLeft : std::uint32_t {
    kThreadHasLeft = 1,  ///< The borrowed thread executes nothing there any more.
    kNobodyReads = 2,    ///< Nor does Echion read there: it may be unmapped.
};

/// Where the helper thread is.
enum HelperState : std::uint32_t {
    kHelperStarting = 0,
    kHelperReady = 1,  ///< `channel_fd` and `image_fd` may be fetched, from `helper_tid`.
    kHelperDone = 2,   ///< `helper_step`, `helper_error` and `message` are final.
};

/// What the second helper, where there is one, wants of the first.
enum BesideState : std::uint32_t {
    kBesideUnasked = 0,
    kBesideWanted = 1,    ///< `entry` is to be called, with kAgentBeside.
    kBesideDone = 2,      ///< `beside_error` is what it returned.
    kBesideUnwanted = 3,  ///< Nothing more.
};

/// What the helper was doing when it ended.
enum class HelperStep : std::uint32_t {
    kNone,
    kMakeChannel,
    kMakeMemoryFile,
    kWaitForImage,
    kLoadLibrary,
    kFindEntry,
    kCallEntry,
    kAttached,
};

/// Addresses are those of the target; functions are its own C library's.
struct StubParameters {
    std::uintptr_t attributes_init;      // pthread_attr_init
    std::uintptr_t attributes_stack;     // pthread_attr_setstacksize
    std::uintptr_t attributes_detached;  // pthread_attr_setdetachstate
    std::uintptr_t create_thread;        // pthread_create
    std::uintptr_t join_thread;          // pthread_join
    std::uintptr_t errno_location;       // __errno_location
    std::uintptr_t open_library;         // dlopen
    std::uintptr_t find_symbol;          // dlsym
    std::uintptr_t last_error;           // dlerror
    std::uintptr_t unmap;                // munmap
    std::uintptr_t entry;                // echion_attach of an agent that is there, or 0
    std::uintptr_t helper;               // echion_stub_helper in the region
    std::uintptr_t region;
    std::uintptr_t way_back;  // stack pointer from which sigreturn restores the thread
    std::uintptr_t system_call_and_return;  // instructions of the target: a system call, then ret
    std::uintptr_t helper_stack_bytes;
    /// Signals, bit n-1 for signal n, that the C library sends to all its threads and waits for,
    /// while it holds the lock that pthread_create() takes.
    std::uint64_t broadcast_signals;
    /// In the program's table, descriptors are moved to this number or above, where possible.
    std::int32_t lowest_fd;
    std::uint32_t wants_own_table;  // 1: the descriptors may be those of a single thread
    char memory_file_name[64];
    char library_path[112];  // the memory file's number is appended
    char entry_name[32];

    volatile std::uint32_t spawn_state;
    volatile std::int32_t spawn_error;
    /// HasLeft; 0 at first.
    volatile std::uint32_t has_left;
    volatile std::uint32_t helper_state;
    volatile std::uint32_t helper_step;
    volatile std::int32_t helper_error;  // errno, or what echion_attach returned
    volatile std::int32_t channel_fd;
    volatile std::int32_t image_fd;
    /// Whose descriptors those are, as the target numbers its threads; 0: the whole program's.
    volatile std::int32_t helper_tid;
    volatile std::uint32_t beside;  // BesideState
    volatile std::int32_t beside_error;
    volatile std::uint32_t may_unmap;  // 1: the second helper found that the region may go
    char message[512];                 // of dlerror()
};
static_assert(sizeof(StubParameters) <= kStubParameterBytes);

/// How long the borrowed thread waits for its tracer before it takes the tracer for dead.
constexpr int kSpawnPatienceMs = 250;
/// How long the helper waits for Echion to fetch its end of the channel, then for the image.
constexpr int kFetchPatienceMs = 5000;
constexpr int kImagePatienceMs = 20000;
/// How long the helper waits for the borrowed thread to have left, before it leaves the region
/// mapped rather than take it away under a thread.
constexpr int kLeavePatienceMs = 20000;

/// The code to copy, as linked into this program; position-independent, refers to nothing outside
/// itself.
struct StubCode {
    const std::byte* start;
    std::size_t size_bytes;
    std::size_t start_offset;
    std::size_t helper_offset;
};
StubCode stub_code();

}  // namespace echion::inject
