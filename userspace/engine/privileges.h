#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>

namespace echion::engine {

/// What stands between the user and a way of working: what failed, why, and what to do about it.
/// The texts are whole phrases without a full stop, fit for one line.
struct Unavailable {
    std::string what;  ///< the step: "load the BPF programs"
    int system_errno = 0;
    std::string why;     ///< "needs CAP_BPF and CAP_PERFMON, which this process has not"
    std::string remedy;  ///< "run as root, or once: sudo setcap … /usr/bin/echion"; may be empty

    /// "cannot load the BPF programs: Operation not permitted; needs …; remedy: …"
    [[nodiscard]] std::string text() const;
};

/// Numbers of capabilities (include/uapi/linux/capability.h), newer than some systems' headers.
enum class Capability : int {
    kDacOverride = 1,
    kKill = 5,
    kSysPtrace = 19,
    kSysAdmin = 21,
    kPerfmon = 38,
    kBpf = 39,
};

const char* capability_name(Capability capability);

/// What decides what this process may do. Read anew at each call of read_privileges().
struct Privileges {
    uid_t effective_uid = 0;
    std::uint64_t effective_capabilities = 0;
    std::uint64_t bounding_capabilities = 0;
    bool no_new_privileges = false;
    int seccomp_mode = 0;  ///< of /proc/self/status: 0 none, 1 strict, 2 filter
    bool in_initial_user_namespace = true;
    bool in_initial_pid_namespace = true;
    int perf_event_paranoid = 2;
    std::int64_t perf_max_rate = 0;  ///< ticks a second
    int yama_ptrace_scope = -1;      ///< -1: Yama is not there
    int unprivileged_bpf_disabled = -1;
    std::string lockdown;         ///< "none", "integrity", "confidentiality"; empty: not there
    std::string kernel_release;   ///< uname -r
    bool kernel_has_btf = false;  ///< /sys/kernel/btf/vmlinux can be read

    [[nodiscard]] bool has(Capability capability) const {
        return (effective_capabilities >> static_cast<int>(capability) & 1) != 0;
    }
    [[nodiscard]] bool may_have(Capability capability) const {
        return (bounding_capabilities >> static_cast<int>(capability) & 1) != 0;
    }
};

Privileges read_privileges();

/// Parts of /proc/self/status that count here, from its text; for tests.
void parse_status(const std::string& text, Privileges& into);
/// The word in brackets of /sys/kernel/security/lockdown: "none [integrity] confidentiality".
std::string parse_lockdown(const std::string& text);
/// Whether this process is in the machine's own user namespace: only there is user 0 its root.
bool is_in_initial_user_namespace();

enum class Purpose {
    kLaunch,
    kAttach,  ///< Also to other users' processes.
};

/// "sudo chgrp GROUP F && … sudo setcap cap_bpf,cap_perfmon=ep F", F being this program: for a
/// group only, as the rights are whoever's who may execute the file. Only capabilities that can be
/// had: the kernel does not start a program whose file asks for one outside the bounding set.
std::string setcap_command(const Privileges& privileges, Purpose purpose);

/// What gives this process the capabilities, as a remedy.
std::string advise(std::span<const Capability> needed, const Privileges& privileges);

/// Whether the kernel lets perf events of this process signal the threads of `pid` (fs/fcntl.c,
/// sigio_perm); where not, ticks are lost without a word.
bool may_signal(pid_t pid);
/// Why not.
Unavailable explain_signal(pid_t pid);

/// Why a BPF step failed with this errno, as far as it can be known.
Unavailable explain_bpf(std::string what, int system_errno, const Privileges& privileges);
/// The same of perf_event_open.
Unavailable explain_perf(std::string what, int system_errno, const Privileges& privileges);

}  // namespace echion::engine
