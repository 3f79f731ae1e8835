#include "platform/process_info.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <utility>

#include "platform/linux/proc_file.h"

namespace echion {
namespace {

constexpr std::size_t kStatusBytes = 4096;

std::string_view trim(std::string_view text) {
    const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\n'; };
    while (!text.empty() && is_space(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_space(text.back())) {
        text.remove_suffix(1);
    }
    return text;
}

/// Takes the next word off `text`; empty at the end.
std::string_view take_word(std::string_view& text) {
    text = trim(text);
    const std::string_view word = text.substr(0, text.find_first_of(" \t\n"));
    text.remove_prefix(word.size());
    return word;
}

template <typename T>
bool parse_number(std::string_view word, T& value, int base = 10) {
    T parsed{};
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), parsed, base);
    if (error != std::errc() || end != word.data() + word.size()) {
        return false;
    }
    value = parsed;
    return true;
}

/// Whether a list with commas holds a word.
bool has_item(std::string_view list, std::string_view item) {
    while (!list.empty()) {
        const std::size_t comma = std::min(list.size(), list.find(','));
        if (list.substr(0, comma) == item) {
            return true;
        }
        list.remove_prefix(std::min(list.size(), comma + 1));
    }
    return false;
}

/// Whether a file of a control group has this line. The group is looked for where this process has
/// such a file system mounted.
bool says_frozen(std::string_view kind, std::string_view option, std::string_view group,
                 std::string_view file, std::string_view wanted) {
    const auto mounts = open_proc_file(kOwnThread, "mounts");
    bool is_found = false;
    // A group outside this process's control group namespace begins with "/..": it is not to be
    // seen from here, and such a path would lead out of the file system (cgroup_namespaces(7)).
    if (!mounts || group.starts_with("/..")) {
        return false;
    }
    // "device place kind options 0 0"
    (void)for_each_line(mounts->get(), [&](std::string_view line) {
        take_word(line);
        const std::string_view place = take_word(line);
        if (take_word(line) != kind || (!option.empty() && !has_item(take_word(line), option))) {
            return true;
        }
        char path[4096];
        const int length =
            std::snprintf(path, sizeof(path), "%.*s%.*s/%.*s", static_cast<int>(place.size()),
                          place.data(), static_cast<int>(group.size()), group.data(),
                          static_cast<int>(file.size()), file.data());
        const UniqueFd state(length > 0 && static_cast<std::size_t>(length) < sizeof(path)
                                 ? ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
                                 : -1);
        if (state) {
            (void)for_each_line(state.get(), [&](std::string_view text) {
                is_found = is_found || text == wanted;
                return !is_found;
            });
        }
        return !is_found;
    });
    return is_found;
}

template <std::size_t size>
void keep_text(std::string_view text, char (&into)[size]) {
    const std::size_t length = std::min(text.size(), size - 1);
    std::memcpy(into, text.data(), length);
    into[length] = '\0';
}

void keep_field(std::string_view key, std::string_view value, ProcessInfo& info) {
    std::string_view rest = value;
    if (key == "Name") {
        keep_text(value, info.name);
    } else if (key == "State") {
        info.state = value.empty() ? '?' : value.front();
    } else if (key == "Pid") {
        parse_number(value, info.pid);
        info.own_pid = info.pid;
    } else if (key == "Tgid") {
        parse_number(value, info.group_pid);
    } else if (key == "NSpid") {
        for (auto word = take_word(rest); !word.empty(); word = take_word(rest)) {
            parse_number(word, info.own_pid);
        }
    } else if (key == "PPid") {
        parse_number(value, info.parent_pid);
    } else if (key == "TracerPid") {
        parse_number(value, info.tracer_pid);
    } else if (key == "Uid") {
        parse_number(take_word(rest), info.real_uid);
        parse_number(take_word(rest), info.effective_uid);
        parse_number(take_word(rest), info.saved_uid);
    } else if (key == "Gid") {
        parse_number(take_word(rest), info.real_gid);
        parse_number(take_word(rest), info.effective_gid);
        parse_number(take_word(rest), info.saved_gid);
    } else if (key == "Threads") {
        parse_number(value, info.threads);
    } else if (key == "Seccomp") {
        parse_number(value, info.seccomp);
    } else if (key == "SigBlk") {
        parse_number(value, info.blocked_signals, 16);
    } else if (key == "SigIgn") {
        parse_number(value, info.ignored_signals, 16);
    } else if (key == "SigCgt") {
        parse_number(value, info.caught_signals, 16);
    } else if (key == "CapEff") {
        parse_number(value, info.effective_capabilities, 16);
    } else if (key == "CapPrm") {
        parse_number(value, info.permitted_capabilities, 16);
    } else if (key == "voluntary_ctxt_switches") {
        parse_number(value, info.voluntary_switches);
    } else if (key == "VmLck") {
        parse_number(take_word(rest), info.locked_kilobytes);
    } else if (key == "VmSize") {
        info.has_memory = true;
    } else if (key == "x86_Thread_features") {
        info.has_shadow_stack = value.find("shstk") != std::string_view::npos;
    }
}

Result<ProcessInfo> read_status(pid_t pid, const char* name) {
    char text[kStatusBytes];
    const auto size = read_proc_text(pid, name, text, sizeof(text));
    if (!size) {
        return tl::unexpected(size.error());
    }
    return parse_process_status({text, *size});
}

}  // namespace

Result<ProcessInfo> parse_process_status(std::string_view text) {
    ProcessInfo info;
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(text.size(), line.size() + 1));
        const std::size_t colon = line.find(':');
        if (colon != std::string_view::npos) {
            keep_field(line.substr(0, colon), trim(line.substr(colon + 1)), info);
        }
    }
    if (info.state == '?') {
        return fail(ErrorKind::kInvalid, "a process status without a state");
    }
    return info;
}

Result<ProcessInfo> read_process_info(pid_t pid) { return read_status(pid, "status"); }

Result<ProcessInfo> read_thread_info(pid_t pid, pid_t tid) {
    char name[48];
    std::snprintf(name, sizeof(name), "task/%d/status", static_cast<int>(tid));
    return read_status(pid, name);
}

OtherThreads look_at_other_threads(pid_t pid, unsigned count) {
    const auto info = read_process_info(pid);
    if (!info || info->state != 'Z') {
        return OtherThreads::kFirst;
    }
    return info->threads == count + 1 ? OtherThreads::kNone : OtherThreads::kWithoutFirst;
}

Status for_each_child(pid_t pid, pid_t tid, FunctionRef<bool(pid_t)> visit) {
    char name[48];
    std::snprintf(name, sizeof(name), "task/%d/children", static_cast<int>(tid));
    const auto file = open_proc_file(pid, name);
    if (!file) {
        return tl::unexpected(file.error());
    }
    // Numbers, each with a space behind it. What comes between two reads may be there twice, or
    // not.
    pid_t number = 0;
    char text[4096];
    ssize_t size = 0;
    while ((size = read(file->get(), text, sizeof(text))) > 0) {
        for (const char c : std::string_view(text, static_cast<std::size_t>(size))) {
            if (c >= '0' && c <= '9') {
                number = number * 10 + (c - '0');
            } else if (number != 0 && !visit(std::exchange(number, 0))) {
                return {};
            }
        }
    }
    return {};
}

Status for_each_thread(pid_t pid, FunctionRef<bool(pid_t)> visit) {
    auto folder = open_proc_file(pid, "task");
    if (!folder) {
        return tl::unexpected(folder.error());
    }
    // struct linux_dirent64 (getdents(2)); opendir(3) would allocate.
    struct Entry {
        std::uint64_t inode;
        std::int64_t next;
        std::uint16_t size_bytes;
        std::uint8_t type;
    };
    constexpr std::size_t kNameOffset = offsetof(Entry, type) + sizeof(Entry::type);
    alignas(Entry) char buffer[4096];
    for (;;) {
        const long got = syscall(SYS_getdents64, folder->get(), buffer, sizeof(buffer));
        if (got < 0) {
            return fail(ErrorKind::kSystem, "list the threads", errno);
        }
        if (got == 0) {
            return {};
        }
        const auto filled = static_cast<std::size_t>(got);
        for (std::size_t at = 0; filled - at > kNameOffset;) {
            Entry entry;
            std::memcpy(&entry, buffer + at, kNameOffset);
            if (entry.size_bytes <= kNameOffset || entry.size_bytes > filled - at) {
                break;
            }
            const char* name = buffer + at + kNameOffset;
            pid_t tid = 0;
            if (parse_number(std::string_view(name, strnlen(name, entry.size_bytes - kNameOffset)),
                             tid) &&
                !visit(tid)) {
                return {};
            }
            at += entry.size_bytes;
        }
    }
}

Result<BlockedCall> parse_blocked_call(std::string_view text) {
    // "running", "-1 SP PC", or "NUMBER A0 A1 A2 A3 A4 A5 SP PC" with hexadecimal values
    BlockedCall call;
    const auto word = take_word(text);
    if (word == "running") {
        return fail(ErrorKind::kNotReady, "the thread is running");
    }
    const auto take_hex = [&text](std::uintptr_t& value) {
        auto digits = take_word(text);
        if (!digits.starts_with("0x")) {
            return false;
        }
        digits.remove_prefix(2);
        return parse_number(digits, value, 16);
    };
    bool parsed = parse_number(word, call.number);
    for (std::size_t i = 0; parsed && call.number != -1 && i < std::size(call.arguments); ++i) {
        parsed = take_hex(call.arguments[i]);
    }
    if (!parsed || !take_hex(call.stack_pointer) || !take_hex(call.instruction_pointer)) {
        return fail(ErrorKind::kInvalid, "a system call that cannot be parsed");
    }
    return call;
}

Result<BlockedCall> read_blocked_call(pid_t pid, pid_t tid) {
    return parse_task_file<256>(pid, tid, "syscall", parse_blocked_call);
}

Result<std::uintptr_t> read_awaited_word(pid_t pid, pid_t tid) {
    const auto call = read_blocked_call(pid, tid);
    if (!call) {
        return tl::unexpected(call.error());
    }
    bool is_wait = call->number == SYS_futex;
#ifdef SYS_futex_time64
    is_wait = is_wait || call->number == SYS_futex_time64;
#endif
    if (!is_wait) {
        return fail(ErrorKind::kNotReady, "the thread waits for no other one");
    }
    return call->arguments[0];
}

ProgramClass read_program_class(pid_t pid) {
    std::array<std::byte, 64> head;
    const auto file = open_proc_file(pid, "exe");
    const ssize_t size = file ? pread64(file->get(), head.data(), head.size(), 0) : -1;
    return size > 0
               ? parse_program_file({head.data(), static_cast<std::size_t>(size)}).program_class
               : ProgramClass::kUnknown;
}

std::uint64_t read_namespace(pid_t pid, const char* name) {
    char path[64];
    if (pid == 0) {
        std::snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
    } else {
        std::snprintf(path, sizeof(path), "/proc/%d/ns/%s", static_cast<int>(pid), name);
    }
    char text[64];
    const ssize_t length = readlink(path, text, sizeof(text));
    if (length <= 0) {
        return 0;
    }
    // "user:[4026531837]"
    const std::string_view link(text, static_cast<std::size_t>(length));
    const std::size_t open = link.find('[');
    const std::size_t close = link.find(']');
    std::uint64_t inode = 0;
    if (open == std::string_view::npos || close == std::string_view::npos || close < open ||
        !parse_number(link.substr(open + 1, close - open - 1), inode)) {
        return 0;
    }
    return inode;
}

bool is_frozen(pid_t pid) {
    bool is_frozen = false;
    const auto groups = open_proc_file(pid, "cgroup");
    if (!groups) {
        return false;
    }
    // "number:controllers:/path"; the second version's line has no controllers.
    (void)for_each_line(groups->get(), [&](std::string_view line) {
        const std::string_view rest = line.substr(std::min(line.size(), line.find(':') + 1));
        const std::size_t colon = std::min(rest.size(), rest.find(':'));
        const std::string_view controllers = rest.substr(0, colon);
        const std::string_view path = rest.substr(std::min(rest.size(), colon + 1));
        if (controllers.empty()) {
            is_frozen = says_frozen("cgroup2", "", path, "cgroup.events", "frozen 1");
        } else if (has_item(controllers, "freezer")) {
            is_frozen = says_frozen("cgroup", "freezer", path, "freezer.state", "FROZEN");
        }
        return !is_frozen;
    });
    return is_frozen;
}

int read_yama_scope() {
    const UniqueFd file(::open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC));
    char text[8];
    const ssize_t got = file ? ::read(file.get(), text, sizeof(text)) : -1;
    int scope = -1;
    if (got > 0) {
        parse_number(trim({text, static_cast<std::size_t>(got)}), scope);
    }
    return scope;
}

}  // namespace echion
