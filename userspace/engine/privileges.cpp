#include "engine/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "engine/perf/perf_event.h"
#include "platform/process_info.h"

namespace echion::engine {
namespace {

// The inodes of the first namespaces (include/linux/proc_ns.h, PROC_USER_INIT_INO and
// PROC_PID_INIT_INO).
constexpr ino_t kInitialUserNamespace = 0xEFFFFFFD;
constexpr ino_t kInitialPidNamespace = 0xEFFFFFFC;

bool is_namespace(const char* path, ino_t inode) {
    errno = 0;
    struct stat status {};
    return ::stat(path, &status) == 0 && status.st_ino == inode;
}

std::string read_file(const char* path) {
    const std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

int read_int(const char* path, int absent) {
    const std::string text = read_file(path);
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 10);
    return end == text.c_str() ? absent : static_cast<int>(value);
}

bool is_in_reach(std::span<const Capability> needed, const Privileges& privileges) {
    return std::ranges::all_of(needed, [&](Capability one) { return privileges.may_have(one); });
}

std::vector<Capability> missing_capabilities(const Privileges& privileges) {
    std::vector<Capability> missing;
    for (const Capability capability : {Capability::kBpf, Capability::kPerfmon}) {
        if (!privileges.has(capability) && !privileges.has(Capability::kSysAdmin)) {
            missing.push_back(capability);
        }
    }
    return missing;
}

void explain_missing(Unavailable& result, const std::vector<Capability>& missing,
                     const Privileges& privileges) {
    result.why = "needs ";
    for (const Capability capability : missing) {
        result.why += (capability == missing.front() ? "" : " and ");
        result.why += capability_name(capability);
    }
    result.why += ", which this process does not have";
    if (!privileges.in_initial_user_namespace) {
        result.why += " outside its user namespace";
    } else if (!is_in_reach(missing, privileges)) {
        result.why += " and cannot get (bounding set)";
    } else if (privileges.no_new_privileges) {
        result.why += " and cannot gain (no_new_privs)";
    }
    result.remedy = advise(missing, privileges);
}

// The programs need 5.12 (see docs/kernel.md).
bool is_old_kernel(const std::string& release) {
    unsigned major = 0;
    unsigned minor = 0;
    return std::sscanf(release.c_str(), "%u.%u", &major, &minor) == 2 &&
           (major < 5 || (major == 5 && minor < 12));
}

}  // namespace

std::string Unavailable::text() const {
    std::string line = "cannot " + what;
    if (system_errno != 0) {
        line += std::string(": ") + std::strerror(system_errno);
    }
    if (!why.empty()) {
        line += "; " + why;
    }
    if (!remedy.empty()) {
        line += "; remedy: " + remedy;
    }
    return line;
}

const char* capability_name(Capability capability) {
    switch (capability) {
        case Capability::kDacOverride:
            return "CAP_DAC_OVERRIDE";
        case Capability::kKill:
            return "CAP_KILL";
        case Capability::kSysPtrace:
            return "CAP_SYS_PTRACE";
        case Capability::kSysAdmin:
            return "CAP_SYS_ADMIN";
        case Capability::kPerfmon:
            return "CAP_PERFMON";
        case Capability::kBpf:
            return "CAP_BPF";
    }
    return "?";
}

void parse_status(const std::string& text, Privileges& into) {
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line)) {
        const std::size_t colon = line.find(':');
        if (colon == std::string::npos) {
            continue;
        }
        const std::string name = line.substr(0, colon);
        const char* value = line.c_str() + colon + 1;
        if (name == "CapEff") {
            into.effective_capabilities = std::strtoull(value, nullptr, 16);
        } else if (name == "CapBnd") {
            into.bounding_capabilities = std::strtoull(value, nullptr, 16);
        } else if (name == "NoNewPrivs") {
            into.no_new_privileges = std::strtol(value, nullptr, 10) != 0;
        } else if (name == "Seccomp") {
            into.seccomp_mode = static_cast<int>(std::strtol(value, nullptr, 10));
        }
    }
}

std::string parse_lockdown(const std::string& text) {
    const std::size_t open = text.find('[');
    const std::size_t close = text.find(']', open == std::string::npos ? 0 : open);
    if (open == std::string::npos || close == std::string::npos) {
        return "";
    }
    return text.substr(open + 1, close - open - 1);
}

bool is_in_initial_user_namespace() {
    // A kernel without user namespaces has no such file.
    return is_namespace("/proc/self/ns/user", kInitialUserNamespace) || errno == ENOENT;
}

Privileges read_privileges() {
    Privileges result;
    result.effective_uid = ::geteuid();
    parse_status(read_file("/proc/self/status"), result);
    result.in_initial_user_namespace = is_in_initial_user_namespace();
    result.in_initial_pid_namespace = is_namespace("/proc/self/ns/pid", kInitialPidNamespace);
    const perf::Limits limits = perf::read_limits();
    result.perf_event_paranoid = limits.paranoid;
    result.perf_max_rate = limits.max_ticks_per_second;
    result.yama_ptrace_scope = read_int("/proc/sys/kernel/yama/ptrace_scope", -1);
    result.unprivileged_bpf_disabled = read_int("/proc/sys/kernel/unprivileged_bpf_disabled", -1);
    result.lockdown = parse_lockdown(read_file("/sys/kernel/security/lockdown"));
    utsname name{};
    if (::uname(&name) == 0) {
        result.kernel_release = name.release;
    }
    result.kernel_has_btf = ::access("/sys/kernel/btf/vmlinux", R_OK) == 0;
    return result;
}

std::string setcap_command(const Privileges& privileges, Purpose purpose) {
    std::string names;
    const std::pair<Capability, const char*> useful[] = {
        {Capability::kBpf, "cap_bpf"},
        {Capability::kPerfmon, "cap_perfmon"},
        {Capability::kSysPtrace, "cap_sys_ptrace"}};
    for (const auto& [capability, name] : useful) {
        if (privileges.may_have(capability) &&
            (capability != Capability::kSysPtrace || purpose == Purpose::kAttach)) {
            names += (names.empty() ? "" : ",") + std::string(name);
        }
    }
    std::array<char, 4096> path{};
    const ssize_t size = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
    const std::string file(size > 0 ? path.data() : "echion");
    // In this order: a file that changes its group loses its capabilities.
    return "sudo chgrp GROUP " + file + " && sudo chmod 750 " + file + " && sudo setcap " + names +
           "=ep " + file;
}

std::string advise(std::span<const Capability> needed, const Privileges& privileges) {
    if (!privileges.in_initial_user_namespace) {
        return "run echion outside, on the host";
    }
    if (!is_in_reach(needed, privileges)) {
        std::string remedy = "start the container with";
        for (const Capability capability : needed) {
            constexpr std::size_t kPrefixBytes = 4;  // CAP_
            if (!privileges.may_have(capability)) {
                remedy +=
                    " --cap-add " + std::string(capability_name(capability)).substr(kPrefixBytes);
            }
        }
        return remedy;
    }
    if (privileges.no_new_privileges) {
        return "allow privilege escalation for this process, or start it as root";
    }
    const bool attaches = std::ranges::count(needed, Capability::kSysPtrace) != 0;
    return "run as root, or once, for the users of a group: " +
           setcap_command(privileges, attaches ? Purpose::kAttach : Purpose::kLaunch) +
           (attaches ? " (they may then trace every process)" : "");
}

bool may_signal(pid_t pid) {
    const bool is_at_home = is_in_initial_user_namespace();
    if (::geteuid() == 0 && is_at_home) {
        return true;
    }
    // What users are called who are nobody in this namespace (kernel.overflowuid).
    constexpr uid_t kNobody = 65534;
    const auto is_ours = [is_at_home](uid_t uid) {
        return (uid == ::getuid() || uid == ::geteuid()) && (is_at_home || uid != kNobody);
    };
    const auto process = read_process_info(pid);
    return process && (is_ours(process->real_uid) || is_ours(process->saved_uid));
}

Unavailable explain_signal(pid_t pid) {
    Unavailable result{"have the kernel signal process " + std::to_string(pid), 0,
                       "it is another user's", "run echion as root or as that user"};
    if (::geteuid() == 0 && !is_in_initial_user_namespace()) {
        result.why += ", and root of a user namespace is not the machine's";
        result.remedy = "run echion outside, on the host, or as that user";
    }
    return result;
}

Unavailable explain_bpf(std::string what, int system_errno, const Privileges& privileges) {
    Unavailable result{std::move(what), system_errno, "", ""};
    const std::vector<Capability> missing = missing_capabilities(privileges);
    // Without the rights, how far loading gets is a matter of kernel.unprivileged_bpf_disabled.
    const bool is_refused =
        system_errno == EPERM || system_errno == EACCES || system_errno == EINVAL;
    if (!privileges.kernel_has_btf) {
        result.why = "kernel " + privileges.kernel_release +
                     " does not describe its types (/sys/kernel/btf/vmlinux)";
        result.remedy = "use a kernel built with CONFIG_DEBUG_INFO_BTF";
    } else if (is_refused && !missing.empty()) {
        explain_missing(result, missing, privileges);
    } else if (is_refused && !privileges.in_initial_user_namespace) {
        result.why = "capabilities of a user namespace do not count for BPF";
        result.remedy = "run echion outside, on the host";
    } else if (system_errno == EPERM && privileges.lockdown == "confidentiality") {
        result.why = "kernel lockdown is in confidentiality mode";
        result.remedy = "boot with lockdown=integrity or without it";
    } else if ((system_errno == EPERM || system_errno == ENOSYS) && privileges.seccomp_mode != 0) {
        result.why = "a seccomp filter forbids bpf(2)";
        result.remedy = "start the container with a seccomp profile that allows bpf";
    } else if (system_errno == EPERM) {
        result.why = "a security module forbids it, or memory may not be locked (RLIMIT_MEMLOCK)";
        result.remedy = "ulimit -l unlimited";
    } else if (system_errno == ENOSYS) {
        result.why = "kernel " + privileges.kernel_release + " has no BPF";
        result.remedy = "use a kernel built with CONFIG_BPF_SYSCALL";
    } else if (system_errno == ENOMEM) {
        result.why = "memory ran out, or may not be locked (RLIMIT_MEMLOCK)";
        result.remedy = "ulimit -l unlimited";
    } else {
        result.why = "kernel " + privileges.kernel_release + " does not take these programs";
        result.remedy = is_old_kernel(privileges.kernel_release) ? "use kernel 5.12 or later" : "";
    }
    return result;
}

Unavailable explain_perf(std::string what, int system_errno, const Privileges& privileges) {
    Unavailable result{std::move(what), system_errno, "", ""};
    if (system_errno == EACCES || system_errno == EPERM) {
        if (privileges.seccomp_mode != 0 && privileges.has(Capability::kPerfmon) &&
            privileges.in_initial_user_namespace) {
            result.why = "a seccomp filter forbids perf_event_open(2)";
            result.remedy = "start the container with a seccomp profile that allows it";
        } else {
            const Capability needed[] = {Capability::kPerfmon};
            result.why = "perf_event_paranoid is " +
                         std::to_string(privileges.perf_event_paranoid) + " and " +
                         (privileges.in_initial_user_namespace
                              ? "this process does not have CAP_PERFMON"
                              : "capabilities of a user namespace do not count for perf events");
            result.remedy = advise(needed, privileges);
        }
    } else if (system_errno == ENOSYS) {
        result.why = "kernel " + privileges.kernel_release + " has no perf events";
        result.remedy = "use a kernel built with CONFIG_PERF_EVENTS";
    } else if (system_errno == EMFILE || system_errno == ENFILE) {
        result.why = "too many open files: one is needed for each thread of the target";
        result.remedy = "ulimit -n 65536";
    } else if (system_errno == ESRCH) {
        result.why = "it has ended";
    } else {
        result.why = "the kernel refuses it";
    }
    return result;
}

}  // namespace echion::engine
