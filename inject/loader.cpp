#include "inject/loader.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/clock.h"
#include "console/refusal.h"
#include "inject/handed_over.h"
#include "inject/helper_spawn.h"
#include "inject/target_identity.h"
#include "inject/thread_descriptors.h"
#include "memory/read_budget.h"
#include "platform/linux/proc_file.h"
#include "platform/process_info.h"
#include "platform/process_reader.h"
#include "platform/program_image.h"

namespace echion::inject {
namespace {

// Enough for dlopen() of one library; the C library takes the thread-local data out of it.
constexpr std::size_t kHelperStackBytes = std::size_t{256} << 10;
constexpr std::string_view kDescriptorFolder = "/proc/thread-self/fd/";
constexpr std::int64_t kSpinNs = 200'000;
constexpr std::int64_t kNapNs = 50'000;
// A process that ends closes its sockets some moments before it is gone.
constexpr int kLastMomentsMs = 200;

// Where descriptors go in the target: high up, where the program does not expect its own next one.
constexpr std::uint64_t kUsualLowestFd = 900;
constexpr std::int32_t kLeastLowestFd = 3;

tl::unexpected<InjectFailure> failed(const Error& error, std::string text) {
    return tl::unexpected(InjectFailure{error, std::move(text)});
}

/// Refuses what can be told before anything is touched.
tl::expected<void, InjectFailure> check_target(pid_t pid) {
    const auto info = read_process_info(pid);
    if (!info) {
        const int cause = info.error().system_errno;
        return failed(info.error(), cause == ENOENT || cause == ESRCH
                                        ? explain_absence(pid)
                                        : explain_refusal(pid, cause));
    }
    const std::string who = describe_process(pid);
    const auto refuse = [&](const char* what, const std::string& text) {
        return failed({ErrorKind::kRefused, 0, what}, text);
    };
    if (pid == getpid()) {
        return refuse("own process", "cannot attach to echion itself");
    }
    if (info->state == 'Z' && info->threads > 1) {
        return refuse("zombie", "the main thread of " + who +
                                    " has ended, which leaves no way in; use echion -w");
    }
    if (info->state == 'Z' || info->state == 'X') {
        return refuse("zombie", explain_no_memory(*info));
    }
    if (!info->has_memory) {
        return refuse("no memory", explain_no_memory(*info));
    }
    switch (read_program_class(pid)) {
        case ProgramClass::kOtherWidth:
            return refuse("other width", who + " is " + std::string(kOtherWidthProgram));
        case ProgramClass::kOtherMachine:
            return refuse("other machine",
                          who + " is a program for another kind of machine (an emulator?)");
        case ProgramClass::kNative:
        case ProgramClass::kUnknown:
            break;
    }
    if (info->tracer_pid != 0) {
        return failed({ErrorKind::kRefused, EPERM, "traced"}, explain_refusal(pid, EPERM));
    }
    if (info->state == 'T') {
        return refuse("stopped", who + " is stopped; resume it first (kill -CONT " +
                                     std::to_string(pid) + "), or use echion -w");
    }
    if (is_frozen(pid)) {
        return refuse("frozen",
                      who +
                          " is frozen by its control group (docker pause, cgroup.freeze); "
                          "thaw it first, or use echion -w");
    }
    if (info->has_shadow_stack) {
        return refuse("shadow stack", who +
                                          " runs with a shadow stack, which cannot be borrowed; "
                                          "start it with GLIBC_TUNABLES unset to turn that off");
    }
    return {};
}

/// The GNU build id in the bytes of an ELF file; empty when it has none.
std::vector<std::byte> find_build_id(std::span<const std::byte> file) {
    // Its note: u32 4, u32 length, u32 3 (NT_GNU_BUILD_ID), "GNU\0", id
    static constexpr std::array<unsigned char, 8> kTypeAndName = {3, 0, 0, 0, 'G', 'N', 'U', 0};
    const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
    const std::size_t size = std::min<std::size_t>(file.size(), 8192);
    for (std::size_t at = 8; at + 8 <= size; at += 4) {
        if (std::memcmp(bytes + at, kTypeAndName.data(), kTypeAndName.size()) == 0) {
            const std::size_t length = bytes[at - 4];
            if (at + 8 + length <= size && length > 0 && bytes[at - 8] == 4) {
                return {file.begin() + static_cast<std::ptrdiff_t>(at + 8),
                        file.begin() + static_cast<std::ptrdiff_t>(at + 8 + length)};
            }
        }
    }
    return {};
}

/// The entry of an agent that this process already has: by the memory file's name, or (preloaded
/// by a launch) by build id.
Address find_loaded_agent(MemoryReader& reader, const TargetCode& code, const AgentImage& image) {
    const std::string memory_file = "/memfd:" + image.name;
    const std::vector<std::byte> wanted_id = find_build_id(image.bytes);
    for (const TargetModule& module : code.modules()) {
        bool is_same = module.path == memory_file;
        std::array<std::byte, 32> id;
        if (!is_same && !wanted_id.empty()) {
            const auto length = module.image.read_build_id(reader, id.data(), id.size());
            is_same = length && *length == wanted_id.size() &&
                      std::equal(wanted_id.begin(), wanted_id.end(), id.begin());
        }
        if (is_same) {
            const auto entry = module.image.find_symbol(reader, image.entry);
            if (entry && entry->is_function) {
                return entry->address;
            }
        }
    }
    return {};
}

template <std::size_t size>
bool keep_text(const std::string& text, char (&into)[size]) {
    if (text.size() >= size) {
        return false;
    }
    std::memcpy(into, text.c_str(), text.size() + 1);
    return true;
}

/// "/proc/thread-self/fd/" in a spelling of its own each time: the dynamic loader takes a path that
/// it has seen for the library that it loaded then, though the number now means another file.
std::string make_library_path() {
    std::string path(kDescriptorFolder);
    for (auto bits = static_cast<std::uint32_t>(monotonic_ns() / 1000); bits != 0; bits >>= 1) {
        path += (bits & 1) != 0 ? "./" : "/";
    }
    return path;
}

// The signal that the C library sends to all threads of a process when one of them changes its
// identity: SIGSETXID of glibc (sysdeps/unix/sysv/linux/internal-signals.h), SIGSYNCCALL of musl
// (src/internal/pthread_impl.h).
constexpr int kGlibcBroadcast = 33;
constexpr int kMuslBroadcast = 34;

bool has_glibc(MemoryReader& reader, const TargetCode& code) {
    return code.find_libc_function(reader, "gnu_get_libc_version").has_value();
}

std::int32_t find_lowest_fd(pid_t pid) {
    rlimit limit{};
    if (prlimit(pid, RLIMIT_NOFILE, nullptr, &limit) != 0) {
        return kLeastLowestFd;
    }
    const auto lowest =
        static_cast<std::int32_t>(std::min<std::uint64_t>(limit.rlim_cur / 8 * 7, kUsualLowestFd));
    return std::max(lowest, kLeastLowestFd);
}

tl::expected<StubParameters, InjectFailure> make_parameters(pid_t pid, MemoryReader& reader,
                                                            const TargetCode& code,
                                                            const AgentImage& image,
                                                            Address entry) {
    StubParameters parameters{};
    struct Wanted {
        const char* name;
        std::uintptr_t StubParameters::*place;
    };
    static constexpr Wanted kWanted[] = {
        {"pthread_attr_init", &StubParameters::attributes_init},
        {"pthread_attr_setstacksize", &StubParameters::attributes_stack},
        {"pthread_attr_setdetachstate", &StubParameters::attributes_detached},
        {"pthread_create", &StubParameters::create_thread},
        {"pthread_join", &StubParameters::join_thread},
        {"__errno_location", &StubParameters::errno_location},
        {"dlopen", &StubParameters::open_library},
        {"dlsym", &StubParameters::find_symbol},
        {"dlerror", &StubParameters::last_error},
        {"munmap", &StubParameters::unmap},
    };
    for (const Wanted& wanted : kWanted) {
        const auto function = code.find_libc_function(reader, wanted.name);
        if (!function) {
            return failed(function.error(), describe_process(pid) +
                                                " has no dynamic C library that could load the "
                                                "agent (no " +
                                                wanted.name + "); use echion -w");
        }
        parameters.*wanted.place = function->value();
    }
    parameters.entry = entry.value();
    parameters.helper_stack_bytes = kHelperStackBytes;
    parameters.lowest_fd = find_lowest_fd(pid);
    parameters.wants_own_table = ThreadDescriptors::are_supported() ? 1 : 0;
    parameters.broadcast_signals =
        std::uint64_t{1} << ((has_glibc(reader, code) ? kGlibcBroadcast : kMuslBroadcast) - 1);
    parameters.channel_fd = -1;
    parameters.image_fd = -1;
    if (!keep_text(image.name, parameters.memory_file_name) ||
        !keep_text(make_library_path(), parameters.library_path) ||
        !keep_text(image.entry, parameters.entry_name)) {
        return failed({ErrorKind::kNoSpace, 0, "a name is too long"}, "a name is too long");
    }
    return parameters;
}

/// The loader's message with the agent's name in place of the spelling that it was loaded by.
std::string simplify_message(std::string text) {
    const std::size_t start = text.find(kDescriptorFolder);
    if (start != std::string::npos) {
        const std::size_t end =
            text.find_first_not_of("./0123456789", start + kDescriptorFolder.size());
        text.replace(start, end == std::string::npos ? end : end - start, "the agent");
    }
    if (text.find("version `GLIBC_") != std::string::npos) {
        text += "; its C library is older than this build of echion needs: use the portable build";
    }
    return text;
}

constexpr char kNoProc[] =
    "; there is no /proc in its root directory (a chroot?), through which the agent is loaded: "
    "mount one there, or use echion -w";
constexpr std::uint64_t kMaxMountBytes = std::uint64_t{16} << 20;

/// Whether a process sees no /proc. By the kernel's list of what it can reach, as its files may be
/// of a server of its own that does not answer. False when it cannot be told.
bool lacks_proc(pid_t pid) {
    const auto mounts = open_proc_file(pid, "mounts");
    if (!mounts) {
        return false;
    }
    bool has_one = false;
    // "device place kind …"
    const Status read = for_each_line(
        mounts->get(),
        [&](std::string_view line) {
            const std::size_t place = line.find(' ');
            has_one = place != line.npos && line.substr(place).starts_with(" /proc proc ");
            return !has_one;
        },
        kMaxMountBytes);
    return read && !has_one;
}

/// The conversation with the helper thread through the region and the new channel.
class Conversation {
  public:
    /// Both outlive it.
    Conversation(TargetIdentity& target, const InjectLimits& limits, Address region)
        : target_(target),
          pid_(target.pid()),
          limits_(limits),
          parameters_(region + kStubCodeBytes),
          deadline_ns_(monotonic_ns() + limits.load_ns) {}

    /// Tells the helper, whatever happened, that the region may go.
    ~Conversation() {
        (void)target_.write_later(parameters_ + offsetof(StubParameters, has_left),
                                  std::uint32_t{kNobodyReads});
    }
    Conversation(const Conversation&) = delete;
    Conversation& operator=(const Conversation&) = delete;

    tl::expected<UniqueFd, InjectFailure> run(const AgentImage& image, bool reuse) {
        auto ready = wait_for(kHelperReady);
        if (!ready) {
            return tl::unexpected(ready.error());
        }
        if (ready->helper_state == kHelperDone) {
            return tl::unexpected(explain(*ready));
        }
        if (ready->helper_tid != 0) {
            auto apart = ThreadDescriptors::open(target_, ready->helper_tid);
            if (!apart) {
                return tl::unexpected(apart.error().kind == ErrorKind::kSystem
                                          ? explain_fetch(apart.error().system_errno)
                                          : hung_up());
            }
            apart_ = std::move(*apart);
        }
        UniqueFd channel = fetch(ready->channel_fd);
        if (!channel) {
            return tl::unexpected(explain_fetch(errno));
        }
        if (!is_control_socket_of(channel.get(), pid_)) {
            return failed(
                {ErrorKind::kProtocol, 0, "not a control socket"},
                describe_process(pid_) + " handed out something else than its control socket");
        }
        if (!reuse) {
            if (auto filled = fill(ready->image_fd, channel.get(), image); !filled) {
                return tl::unexpected(filled.error());
            }
        } else if (!send_packet(channel.get())) {
            return tl::unexpected(hung_up());
        }
        if (!send_packet(channel.get())) {
            return tl::unexpected(hung_up());
        }
        auto done = wait_for(kHelperDone);
        if (!done) {
            return tl::unexpected(done.error());
        }
        if (static_cast<HelperStep>(done->helper_step) != HelperStep::kAttached) {
            return tl::unexpected(explain(*done));
        }
        return channel;
    }

  private:
    /// One of the helper's descriptors; none, with errno, if it has no such one.
    UniqueFd fetch(int number) const {
        const int owner = apart_ ? apart_->pidfd() : target_.pidfd();
        return UniqueFd(static_cast<int>(syscall(SYS_pidfd_getfd, owner, number, 0)));
    }

    /// Never waits: an honest helper's socket has room for these few bytes.
    static bool send_packet(int channel) {
        const char byte = 0;
        return send(channel, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
    }

    [[nodiscard]] InjectFailure hung_up() const {
        const Error error{ErrorKind::kSystem, EPIPE, "the helper thread has ended"};
        (void)target_.has_ended(kLastMomentsMs);
        if (const Status status = target_.check(); !status) {
            return {error, explain_change(pid_, status.error())};
        }
        return {error, "the new thread in " + describe_process(pid_) +
                           " gave up (does its seccomp filter forbid ppoll?); try again"};
    }

    [[nodiscard]] InjectFailure explain_fetch(int cause) const {
        if (cause == EBADF || cause == ESRCH) {
            return hung_up();  // closed already
        }
        const Error error{ErrorKind::kSystem, cause, "fetch a descriptor"};
        if (const Status status = target_.check(); !status) {
            return {error, explain_change(pid_, status.error())};
        }
        return {error, explain_refusal(pid_, cause)};
    }

    tl::expected<void, InjectFailure> fill(int number, int channel, const AgentImage& image) {
        const UniqueFd file = fetch(number);
        const int cause = errno;
        // The first packet: the helper may close its copy of our end, and will see us hang up.
        if (!send_packet(channel)) {
            return tl::unexpected(hung_up());
        }
        if (!file) {
            return tl::unexpected(explain_fetch(cause));
        }
        // The number comes from the target. Into anything but a memory file, a write with this
        // program's rights could do what the target itself may not.
        const auto is_memory_file = is_empty_memory_file(file.get());
        if (!is_memory_file) {
            return failed(is_memory_file.error(),
                          explain_refusal(pid_, is_memory_file.error().system_errno));
        }
        if (!*is_memory_file) {
            return failed({ErrorKind::kProtocol, 0, "not a memory file"},
                          describe_process(pid_) +
                              " handed out something else than its memory "
                              "file");
        }
        std::size_t done = 0;
        while (done < image.bytes.size()) {
            const ssize_t written = pwrite(file.get(), image.bytes.data() + done,
                                           image.bytes.size() - done, static_cast<off_t>(done));
            if (written <= 0) {
                if (written < 0 && errno == EINTR) {
                    continue;
                }
                return failed({ErrorKind::kSystem, errno, "write the agent"},
                              "could not copy the agent into " + describe_process(pid_) + ": " +
                                  std::strerror(errno));
            }
            done += static_cast<std::size_t>(written);
        }
        return {};
    }

    /// Waits until the helper is at least as far as `state`.
    tl::expected<StubParameters, InjectFailure> wait_for(std::uint32_t state) {
        const std::int64_t since_ns = monotonic_ns();
        for (;;) {
            const auto now = target_.memory().read_value<StubParameters>(parameters_);
            if (!now || target_.has_ended()) {
                return tl::unexpected(hung_up());
            }
            if (now->helper_state >= state) {
                return *now;
            }
            if (limits_.is_cancelled()) {
                return failed(
                    {ErrorKind::kSystem, EINTR, "cancelled"},
                    "interrupted while attaching to " + describe_process(pid_) + ", which goes on");
            }
            if (monotonic_ns() >= deadline_ns_) {
                return failed({ErrorKind::kSystem, ETIMEDOUT, "the helper does not answer"},
                              "the agent could not be loaded into " + describe_process(pid_) +
                                  " in time: " + describe_step(*now));
            }
            if (monotonic_ns() - since_ns > kSpinNs) {
                sleep_ns(kNapNs);
            } else {
                sched_yield();
            }
        }
    }

    static std::string describe_step(const StubParameters& state) {
        switch (static_cast<HelperStep>(state.helper_step)) {
            case HelperStep::kNone:
                return "its new thread does not run (is the process stopped?); try again";
            case HelperStep::kLoadLibrary:
            case HelperStep::kFindEntry:
                return "another thread keeps its dynamic loader locked; try again";
            default:
                return "it does not answer; try again";
        }
    }

    InjectFailure explain(const StubParameters& state) const {
        const int cause = state.helper_error;
        const Error error{ErrorKind::kSystem, cause, "attach"};
        // In a process that is about to execute another program no thread can be made.
        if (cause == EAGAIN) {
            (void)target_.has_ended(kLastMomentsMs);
        }
        if (const Status status = target_.check(); !status) {
            return {error, explain_change(pid_, status.error())};
        }
        const std::string who = describe_process(pid_);
        char message[sizeof(state.message)];
        std::memcpy(message, state.message, sizeof(message));
        message[sizeof(message) - 1] = '\0';
        switch (static_cast<HelperStep>(state.helper_step)) {
            case HelperStep::kMakeChannel:
                return {error, "could not make a socket in " + who + ": " + std::strerror(cause),
                        true};
            case HelperStep::kMakeMemoryFile:
                return {error,
                        "could not make a memory file in " + who + ": " + std::strerror(cause),
                        true};
            case HelperStep::kWaitForImage:
                return hung_up();
            case HelperStep::kLoadLibrary:
            case HelperStep::kFindEntry:
                return {error,
                        "the dynamic loader of " + who + " refuses the agent: " +
                            simplify_message(message) + (lacks_proc(pid_) ? kNoProc : ""),
                        true};
            case HelperStep::kCallEntry:
                if (cause == EBUSY) {
                    return {{ErrorKind::kRefused, EBUSY, "busy"},
                            "another echion is already sampling " + who + "; wait until it ends"};
                }
                return {error, "the agent does not start in " + who + ": " + std::strerror(cause),
                        true};
            default:
                return {error, "the agent was not loaded into " + who + "; try again"};
        }
    }

    TargetIdentity& target_;
    const pid_t pid_;
    const InjectLimits& limits_;
    Address parameters_;
    std::int64_t deadline_ns_;
    std::optional<ThreadDescriptors> apart_;  // where the helper's are not the program's
};

InjectFailure explain_no_hold(pid_t pid, const Error& error) {
    const int cause = error.system_errno;
    if (error.kind == ErrorKind::kRefused || cause == ESRCH) {
        return {error, explain_change(pid, error)};
    }
    // ENOENT is what newer kernels say of a thread that is not its process's first.
    if (std::string_view(error.what) == "pidfd_open" && (cause == EINVAL || cause == ENOENT)) {
        return {error, explain_thread_id(pid, 0)};
    }
    if (cause == ENOSYS) {
        return {error, "attaching needs pidfd_open (Linux 5.3): " + std::string(strerror(cause))};
    }
    return {error, explain_refusal(pid, cause)};
}

}  // namespace

void read_ahead(pid_t pid, StallGuard* guard) {
    ProcessReader process_reader;
    (void)process_reader.open(pid, Address());
    GuardedReader reader(process_reader, guard);
    (void)TargetCode::read(reader, pid);
}

tl::expected<Injection, InjectFailure> inject_agent(pid_t pid, const AgentImage& image,
                                                    const InjectLimits& limits) {
    const std::int64_t since_ns = monotonic_ns();
    if (auto checked = check_target(pid); !checked) {
        return tl::unexpected(checked.error());
    }
    auto held = TargetIdentity::hold(pid, limits.guard);
    if (!held) {
        return tl::unexpected(explain_no_hold(pid, held.error()));
    }
    TargetIdentity& target = *held;
    if (limits.seen && *limits.seen != target.image()) {
        const Error error{ErrorKind::kRefused, 0, "the process has executed another program"};
        return failed(error, explain_change(pid, error));
    }
    if (target.shares_parents_memory()) {
        return failed({ErrorKind::kRefused, 0, "shares its parent's memory"},
                      describe_process(pid) +
                          " has not started its program yet and still runs in its parent's memory "
                          "(vfork); try again");
    }
    ProcessReader process_reader;
    (void)process_reader.open(pid, Address());
    GuardedReader reader(process_reader, limits.guard);
    // Whatever goes wrong from here on may be because the program is another one by now.
    const auto fail_if_same = [&](const Error& error,
                                  const std::string& text) -> tl::unexpected<InjectFailure> {
        const Status status = target.check();
        return status ? failed(error, text)
                      : failed(status.error(), explain_change(pid, status.error()));
    };
    const auto code = TargetCode::read(reader, pid);
    if (!code) {
        return fail_if_same(code.error(), code.error().kind == ErrorKind::kSystem
                                              ? explain_refusal(pid, code.error().system_errno)
                                              : "cannot attach to " + describe_process(pid) + ": " +
                                                    code.error().what + "; use echion -w");
    }
    Injection injection;
    ReadBudget budget(kTargetCodeLimits);
    BudgetedReader budgeted(reader, budget);
    const Address entry = find_loaded_agent(budgeted, *code, image);
    injection.reused = static_cast<bool>(entry);
    const auto parameters = make_parameters(pid, budgeted, *code, image, entry);
    if (budget.is_over()) {
        return failed({ErrorKind::kBoundExceeded, 0, "read budget"},
                      "cannot attach to " + describe_process(pid) +
                          ": its mapped libraries take too long to read; use echion -w");
    }
    if (!parameters) {
        return fail_if_same(parameters.error().error, parameters.error().text);
    }
    const bool is_glibc = has_glibc(reader, *code);
    const int broadcast_signal = is_glibc ? kGlibcBroadcast : kMuslBroadcast;
    const SpawnRequest request{target,   reader,           *code, *parameters,
                               is_glibc, broadcast_signal, limits};
    const auto region = spawn_helper(request, injection.cost);
    if (!region) {
        return tl::unexpected(region.error());
    }
    Conversation conversation(target, limits, *region);
    auto channel = conversation.run(image, injection.reused);
    if (!channel) {
        return tl::unexpected(channel.error());
    }
    injection.channel = std::move(*channel);
    injection.image = target.image();
    injection.process = UniqueFd(fcntl(target.pidfd(), F_DUPFD_CLOEXEC, 0));
    injection.cost.total_ns = monotonic_ns() - since_ns;
    return injection;
}

}  // namespace echion::inject
