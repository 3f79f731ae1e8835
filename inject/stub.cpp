#include "inject/stub.h"

#include <dlfcn.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include <cerrno>

#include "base/attach_part.h"
#include "inject/stub_arch.h"
#include "platform/linux/close_range.h"

// Everything below up to stub_code() is copied into another process. It may call nothing but the
// functions whose addresses are in the parameters, and use no constant that the compiler would
// place in another section: see the flags of this file in CMakeLists.txt, and its unit test, which
// runs it from another place.

#define ECHION_STUB __attribute__((section("echion_stub"), used))
#define ECHION_STUB_INLINE __attribute__((always_inline)) inline

// From Linux 6.3 on; older headers lack it.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

extern "C" {
extern const char __start_echion_stub[] __attribute__((visibility("hidden")));
extern const char __stop_echion_stub[] __attribute__((visibility("hidden")));
}

namespace echion::inject {
namespace {

constexpr long kNanosPerMilli = 1'000'000;
constexpr long kMillisPerSecond = 1000;
// Numbers below are left to standard input, output and error, also when the program closed them.
constexpr int kLowestFd = 3;
constexpr std::uintptr_t kSignalSetBytes = 8;  // of the kernel's sigset_t
constexpr int kDuplicateAtOrAbove = 1030;      // F_DUPFD_CLOEXEC

template <typename Function>
ECHION_STUB_INLINE Function* target_function(std::uintptr_t address) {
    return reinterpret_cast<Function*>(address);
}

template <typename T>
ECHION_STUB_INLINE std::uintptr_t word(T* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer);
}

template <typename T>
ECHION_STUB_INLINE std::uintptr_t word(volatile T* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer);
}

/// ppoll() that goes on after a handler of the C library's own signal: the kernel leaves in
/// `patience` what is left of it.
ECHION_STUB_INLINE long poll_on(pollfd& entry, std::uintptr_t count, timespec& patience) {
    long result = 0;
    do {
        result = stub_call(SYS_ppoll, word(&entry), count, word(&patience), 0, kSignalSetBytes);
    } while (result == -EINTR);
    return result;
}

/// Waits without touching the state from which the kernel restarts an interrupted nanosleep, poll
/// or futex: ppoll() is restarted from its arguments alone.
ECHION_STUB_INLINE long wait_for(int fd, long milliseconds) {
    timespec patience;
    patience.tv_sec = milliseconds / kMillisPerSecond;
    patience.tv_nsec = (milliseconds % kMillisPerSecond) * kNanosPerMilli;
    pollfd entry;
    entry.fd = fd;
    entry.events = POLLIN;
    entry.revents = 0;
    return poll_on(entry, fd >= 0 ? 1 : 0, patience);
}

/// Waits until the other side is gone; whatever it has sent does not count.
ECHION_STUB_INLINE bool wait_for_hang_up(int fd, long milliseconds) {
    timespec patience;
    patience.tv_sec = 0;
    patience.tv_nsec = milliseconds * kNanosPerMilli;
    pollfd entry;
    entry.fd = fd;
    entry.events = 0;
    entry.revents = 0;
    return poll_on(entry, fd >= 0 ? 1 : 0, patience) == 1;
}

/// Waits for one packet and takes it. False at the time's end or when the other side is gone.
ECHION_STUB_INLINE bool take_packet(int fd, long milliseconds) {
    if (wait_for(fd, milliseconds) != 1) {
        return false;
    }
    char byte;
    return stub_call(SYS_recvfrom, static_cast<std::uintptr_t>(fd), word(&byte), 1, MSG_DONTWAIT) ==
           1;
}

ECHION_STUB_INLINE void close_fd(int fd) {
    if (fd >= 0) {
        stub_call(SYS_close, static_cast<std::uintptr_t>(fd));
    }
}

ECHION_STUB_INLINE int duplicate(int fd, int lowest) {
    return static_cast<int>(stub_call(SYS_fcntl, static_cast<std::uintptr_t>(fd),
                                      kDuplicateAtOrAbove, static_cast<std::uintptr_t>(lowest)));
}

/// The same descriptor with a number where the program does not expect its own next one; never that
/// of a standard stream. Negative if there is no such number.
ECHION_STUB_INLINE int raise_fd(int fd, int lowest) {
    if (fd < 0) {
        return fd;
    }
    int raised = duplicate(fd, lowest);
    if (raised < 0 && fd >= kLowestFd) {
        return fd;
    }
    if (raised < 0) {
        raised = duplicate(fd, kLowestFd);
    }
    close_fd(fd);
    return raised;
}

ECHION_STUB_INLINE void set_and_wake(volatile std::uint32_t& word_of, std::uint32_t value) {
    __atomic_store_n(&word_of, value, __ATOMIC_RELEASE);
    stub_call(SYS_futex, word(&word_of), FUTEX_WAKE_PRIVATE, 1);
}

/// Waits, for ever, while a word has this value; what it has then.
ECHION_STUB_INLINE std::uint32_t wait_while(volatile std::uint32_t& word_of, std::uint32_t value) {
    for (;;) {
        const std::uint32_t now = __atomic_load_n(&word_of, __ATOMIC_ACQUIRE);
        if (now != value) {
            return now;
        }
        const long result = stub_call(SYS_futex, word(&word_of), FUTEX_WAIT_PRIVATE, value);
        if (result != 0 && result != -EAGAIN && result != -EINTR) {
            wait_for(-1, 1);  // refused
        }
    }
}

/// Gives the calling thread a descriptor table of its own, in which nothing is open. False if it
/// shares the program's as before.
ECHION_STUB_INLINE bool leave_table() {
    return stub_call(SYS_close_range, 0, ~0U, CLOSE_RANGE_UNSHARE) == 0;
}

/// `how`: SIG_BLOCK or SIG_UNBLOCK.
ECHION_STUB_INLINE void change_mask(int how, const std::uint64_t& signals) {
    stub_call(SYS_rt_sigprocmask, static_cast<std::uintptr_t>(how), word(&signals), 0,
              kSignalSetBytes);
}

ECHION_STUB_INLINE void append_number(char* text, unsigned value) {
    while (*text != '\0') {
        ++text;
    }
    unsigned divisor = 1;
    while (value / divisor >= 10) {
        divisor *= 10;
    }
    for (; divisor != 0; divisor /= 10) {
        *text++ = static_cast<char>('0' + value / divisor % 10);
    }
    *text = '\0';
}

ECHION_STUB_INLINE void keep_message(StubParameters* parameters, const char* text) {
    std::size_t length = 0;
    while (text != nullptr && text[length] != '\0' && length + 1 < sizeof(parameters->message)) {
        static_cast<volatile char*>(parameters->message)[length] = text[length];
        ++length;
    }
    parameters->message[length] = '\0';
}

ECHION_STUB_INLINE void set_step(StubParameters* parameters, HelperStep step, int error) {
    parameters->helper_step = static_cast<std::uint32_t>(step);
    parameters->helper_error = error;
}

/// Loads the image in the memory file; the address of the agent's entry, or 0.
ECHION_STUB_INLINE std::uintptr_t load_agent(StubParameters* parameters, int image) {
    set_step(parameters, HelperStep::kLoadLibrary, 0);
    append_number(parameters->library_path, static_cast<unsigned>(image));
    void* library = target_function<void*(const char*, int)>(parameters->open_library)(
        parameters->library_path, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) {
        set_step(parameters, HelperStep::kFindEntry, 0);
        void* entry = target_function<void*(void*, const char*)>(parameters->find_symbol)(
            library, parameters->entry_name);
        if (entry != nullptr) {
            return reinterpret_cast<std::uintptr_t>(entry);
        }
    }
    keep_message(parameters, target_function<char*()>(parameters->last_error)());
    parameters->helper_error = ENOEXEC;
    return 0;
}

/// Calls the agent's entry: 0, or what it or the stub has to say. The channel is the agent's then,
/// or closed. Both parts that share no table have to be started, or none is.
ECHION_STUB_INLINE int start_agent(StubParameters* parameters, std::uintptr_t entry, int channel,
                                   bool has_own_table) {
    auto* call = target_function<int(int, int)>(entry);
    if (!has_own_table) {
        return call(channel, kWholeAgent);
    }
    parameters->entry = entry;
    set_and_wake(parameters->beside, kBesideWanted);
    wait_while(parameters->beside, kBesideWanted);
    const int refused = parameters->beside_error;
    if (refused != 0) {
        close_fd(channel);
        return refused;
    }
    return call(channel, kAgentApart);
}

}  // namespace

/// Makes a thread that runs `start` with these parameters: 0 or an errno. `thread`: room for a
/// pthread_t, or null for one that is detached.
extern "C" ECHION_STUB __attribute__((noinline)) int echion_stub_make_thread(
    StubParameters* parameters, std::uintptr_t start, void* thread) {
    // A pthread_attr_t and a pthread_t of any C library, with room to spare.
    alignas(16) unsigned char attributes[256];
    alignas(16) unsigned char unused[16];
    // A stack that cannot hold the thread-local data of all the program's libraries is refused
    // when the thread is made (EINVAL): the second time it has the size of the program's own.
    int error = EINVAL;
    for (int attempt = 0; attempt < 2 && error == EINVAL; ++attempt) {
        error = target_function<int(void*)>(parameters->attributes_init)(attributes);
        if (error == 0 && attempt == 0) {
            target_function<int(void*, std::size_t)>(parameters->attributes_stack)(
                attributes, parameters->helper_stack_bytes);
        }
        if (error == 0 && thread == nullptr) {
            error = target_function<int(void*, int)>(parameters->attributes_detached)(
                attributes, PTHREAD_CREATE_DETACHED);
        }
        if (error == 0) {
            error = target_function<int(void*, void*, std::uintptr_t, void*)>(
                parameters->create_thread)(thread == nullptr ? unused : thread, attributes, start,
                                           parameters);
        }
    }
    return error;
}

/// Runs on the borrowed thread, on the region's stack, with all signals blocked but those of faults
/// and, while it is in the C library, the library's own.
extern "C" [[noreturn]] ECHION_STUB void echion_stub_spawn(StubParameters* parameters) {
    int* errno_place = target_function<int*()>(parameters->errno_location)();
    const int kept_errno = *errno_place;
    // A thread that calls setuid() holds the lock of the threads' stacks until each thread, this
    // one too, has answered its signal. The stack is writable only now, for a handler to run on.
    const std::uint64_t broadcast_signals = parameters->broadcast_signals;
    change_mask(SIG_UNBLOCK, broadcast_signals);

    const int error = echion_stub_make_thread(parameters, parameters->helper, nullptr);
    // No lock is held any more. Behind the next store the thread may be put back at any moment,
    // which must not be inside a handler.
    change_mask(SIG_BLOCK, broadcast_signals);
    *errno_place = kept_errno;
    parameters->spawn_error = error;
    __atomic_store_n(&parameters->spawn_state, error == 0 ? kSpawned : kSpawnFailed,
                     __ATOMIC_RELEASE);

    // The tracer stops this thread here and puts it back where it was. If it has died, the thread
    // does that itself, from the signal frame that the tracer left on its stack.
    for (int i = 0; i < kSpawnPatienceMs; ++i) {
        wait_for(-1, 1);
    }
    parameters->spawn_state = kLeavingAlone;
    // FUTEX_WAKE_OP only as a store that happens outside the region: `has_left` = 1.
    stub_leave(parameters->way_back, parameters->system_call_and_return, SYS_futex,
               word(&parameters->spawn_state), FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 0, 0,
               word(&parameters->has_left), FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_EQ, 0));
}

/// All that the helper thread does, or the second one; false if the region has to stay.
extern "C" ECHION_STUB __attribute__((noinline)) bool echion_stub_work(StubParameters* parameters,
                                                                       bool has_own_table) {
    const int lowest_fd = has_own_table ? kLowestFd : parameters->lowest_fd;
    bool is_alone = false;
    int watched = -1;  // of our own, to see Echion hang up when the channel is the agent's
    parameters->helper_tid = has_own_table ? static_cast<std::int32_t>(stub_call(SYS_gettid)) : 0;

    int ends[2] = {-1, -1};
    int image = -1;
    set_step(parameters, HelperStep::kMakeChannel, 0);
    long result = stub_call(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, word(ends));
    if (result == 0) {
        ends[0] = raise_fd(ends[0], lowest_fd);
        ends[1] = raise_fd(ends[1], lowest_fd);
        if (ends[0] < 0 || ends[1] < 0) {
            result = -EMFILE;
        }
    }
    if (result == 0) {
        if (parameters->entry == 0) {
            set_step(parameters, HelperStep::kMakeMemoryFile, 0);
            // Where vm.memfd_noexec forbids the plain kind, the other one can still be mapped.
            result = stub_call(SYS_memfd_create, word(parameters->memory_file_name), MFD_CLOEXEC);
            if (result == -EACCES) {
                result = stub_call(SYS_memfd_create, word(parameters->memory_file_name),
                                   MFD_CLOEXEC | MFD_NOEXEC_SEAL);
            }
            image = raise_fd(static_cast<int>(result), lowest_fd);
            result = image;
        }
    }
    if (result < 0) {
        parameters->helper_error = static_cast<int>(-result);
        close_fd(ends[0]);
        close_fd(ends[1]);
    } else {
        parameters->channel_fd = ends[0];
        parameters->image_fd = image;
        set_step(parameters, HelperStep::kWaitForImage, ETIMEDOUT);
        __atomic_store_n(&parameters->helper_state, kHelperReady, __ATOMIC_RELEASE);
        // The first packet says that Echion has its own descriptor of its end. From then on its
        // death shows here as a hang-up.
        const bool was_fetched = take_packet(ends[1], kFetchPatienceMs);
        close_fd(ends[0]);
        const bool is_complete = was_fetched && take_packet(ends[1], kImagePatienceMs);
        is_alone = !is_complete;
        std::uintptr_t entry = parameters->entry;
        if (is_complete && entry == 0) {
            entry = load_agent(parameters, image);
        }
        close_fd(image);
        const bool is_called = is_complete && entry != 0;
        int refused = -1;
        if (is_called) {
            set_step(parameters, HelperStep::kCallEntry, 0);
            watched = duplicate(ends[1], lowest_fd);
            refused = start_agent(parameters, entry, ends[1], has_own_table);
            parameters->helper_error = refused;
        }
        // Once it has been called, the descriptor is the agent's, whatever it answers.
        if (refused == 0) {
            set_step(parameters, HelperStep::kAttached, 0);
        } else {
            close_fd(watched);
            watched = -1;
        }
        if (!is_called) {
            close_fd(ends[1]);
        }
    }
    __atomic_store_n(&parameters->helper_state, kHelperDone, __ATOMIC_RELEASE);

    // If Echion has died or given up, nobody reads what is here.
    std::uint32_t left = 0;
    for (int i = 0; i < kLeavePatienceMs; ++i) {
        left = __atomic_load_n(&parameters->has_left, __ATOMIC_ACQUIRE);
        if (left >= (is_alone ? kThreadHasLeft : kNobodyReads)) {
            break;
        }
        if (is_alone) {
            wait_for(-1, 1);
        } else {
            is_alone = wait_for_hang_up(watched, 1);
        }
    }
    close_fd(watched);
    return left >= kThreadHasLeft;
}

ECHION_STUB_INLINE void set_thread_name() {
    const std::uint64_t name = 0x6e6f69686365;  // "echion"
    stub_call(SYS_prctl, PR_SET_NAME, word(&name));
}

/// The second helper thread.
extern "C" ECHION_STUB void* echion_stub_apart(StubParameters* parameters) {
    set_thread_name();
    const bool may_unmap = echion_stub_work(parameters, leave_table());
    parameters->may_unmap = may_unmap ? 1 : 0;
    if (parameters->beside == kBesideUnasked) {
        set_and_wake(parameters->beside, kBesideUnwanted);
    }
    return nullptr;
}

/// What the first helper does until nobody but it executes anything in the region; false if the
/// region has to stay. Not part of that thread's first function, whose last call must find no local
/// variables left.
extern "C" ECHION_STUB __attribute__((noinline)) bool echion_stub_help(StubParameters* parameters) {
    set_thread_name();
    alignas(16) std::uintptr_t thread[2];  // a pthread_t: a word in every C library
    if (parameters->wants_own_table == 0 ||
        echion_stub_make_thread(parameters, word(&echion_stub_apart), thread) != 0) {
        return echion_stub_work(parameters, false);
    }
    if (wait_while(parameters->beside, kBesideUnasked) == kBesideWanted) {
        parameters->beside_error =
            target_function<int(int, int)>(parameters->entry)(-1, kAgentBeside);
        set_and_wake(parameters->beside, kBesideDone);
    }
    return target_function<int(std::uintptr_t, void*)>(parameters->join_thread)(thread[0],
                                                                                nullptr) == 0 &&
           parameters->may_unmap != 0;
}

/// The helper thread: an ordinary thread of the target's C library.
extern "C" ECHION_STUB void* echion_stub_helper(StubParameters* parameters) {
    if (!echion_stub_help(parameters)) {
        return nullptr;
    }
    // A tail call (a jump, see this file's flags): munmap() takes this code away and returns to the
    // C library's thread function.
    return target_function<void*(std::uintptr_t, std::size_t)>(parameters->unmap)(
        parameters->region, kRegionBytes);
}

asm(".pushsection echion_stub,\"ax\",@progbits\n"
    ".globl echion_stub_start\n"
    ".hidden echion_stub_start\n"
    "echion_stub_start:\n\t" ECHION_STUB_START ".popsection\n");
extern "C" void echion_stub_start() __attribute__((visibility("hidden")));

StubCode stub_code() {
    const auto* start = reinterpret_cast<const std::byte*>(__start_echion_stub);
    const auto offset = [start](auto* function) {
        return static_cast<std::size_t>(reinterpret_cast<const std::byte*>(function) - start);
    };
    return {start, static_cast<std::size_t>(__stop_echion_stub - __start_echion_stub),
            offset(&echion_stub_start), offset(&echion_stub_helper)};
}

}  // namespace echion::inject
