#include "console/refusal.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/program_image.h"

namespace echion {
namespace {

constexpr unsigned kCapSysPtrace = 19;  // capabilities(7)

std::string name_of(pid_t pid) {
    const auto info = read_process_info(pid);
    return info ? std::string(info->name) : std::string("?");
}

/// What the second line of defence says when nothing else explains it.
std::string explain_security_module(const ProcessInfo& self) {
    if (self.seccomp != 0) {
        return "echion itself runs under a seccomp filter that may forbid it; allow ptrace, "
               "process_vm_readv and pidfd_getfd (Docker: --cap-add SYS_PTRACE)";
    }
    return "a security module (SELinux, AppArmor) may forbid it";
}

}  // namespace

std::string describe_process(pid_t pid) {
    return "process " + std::to_string(pid) + " (" + name_of(pid) + ")";
}

std::string describe_process(const ProcessInfo& process) {
    return "process " + std::to_string(process.pid) + " (" + process.name + ")";
}

std::string explain_absence(pid_t pid) {
    return "there is no process " + std::to_string(pid) +
           " (in a container, take the id that it has there)";
}

std::string explain_thread_id(pid_t tid, pid_t pid) {
    const std::string text = std::to_string(tid) + " is a thread, not a process";
    return pid != 0 ? text + ": give the id of its process, " + std::to_string(pid) : text;
}

std::string explain_no_memory(const ProcessInfo& process) {
    const std::string who = describe_process(process);
    if (is_kernel_thread(process.pid)) {
        return who + " is a thread of the kernel, not Python";
    }
    return who + (process.state == 'Z' ? " has ended: its parent has not noticed" : " has ended");
}

std::string explain_refusal(pid_t pid, int system_errno, Access access) {
    if (is_shortage(system_errno)) {
        return (access == Access::kTrace ? "cannot attach to " : "cannot look at ") +
               describe_process(pid) + ": echion itself has no more " +
               (system_errno == EMFILE   ? "descriptors (see ulimit -n)"
                : system_errno == ENFILE ? "descriptors (see sysctl fs.file-max)"
                                         : "memory (see ulimit -v and ulimit -d)");
    }
    const std::string prefix =
        (access == Access::kTrace ? "may not attach to " : "may not look at ") +
        describe_process(pid) + ": ";
    const auto target = read_process_info(pid);
    const auto self = read_process_info(kOwnProcess);
    if (!target || !self) {
        return prefix + std::strerror(system_errno);
    }
    if (access == Access::kTrace && target->tracer_pid != 0) {
        return prefix + "it is already traced by " + describe_process(target->tracer_pid) +
               "; end that first, or use echion -w " + std::to_string(pid) +
               ", which needs no tracing";
    }
    if (system_errno == ESRCH) {
        return prefix + "it has ended, or executes another program just now; try again";
    }
    if (system_errno == ENOSYS) {
        return prefix +
               "this kernel lacks the system call (pidfd_getfd needs Linux 5.6), or a "
               "seccomp filter hides it";
    }
    const bool has_capability = (self->effective_capabilities >> kCapSysPtrace & 1) != 0;
    const std::uint64_t own_space = read_namespace(kOwnProcess, "user");
    const std::uint64_t target_space = read_namespace(pid, "user");
    if (has_capability) {
        if (target_space != 0 && own_space != 0 && target_space != own_space) {
            return prefix +
                   "it lives in another user namespace, where this CAP_SYS_PTRACE does "
                   "not count; run echion outside of that container";
        }
        return prefix + explain_security_module(*self);
    }
    const bool is_same_user = target->real_uid == geteuid() && target->effective_uid == geteuid() &&
                              target->saved_uid == geteuid();
    if (!is_same_user) {
        return prefix + "it belongs to uid " + std::to_string(target->effective_uid) +
               " and echion runs as uid " + std::to_string(geteuid()) +
               " without CAP_SYS_PTRACE; run it with sudo";
    }
    switch (read_yama_scope()) {
        case 1:
            return prefix +
                   "Yama's ptrace_scope is 1 (only own children may be traced); run with "
                   "sudo, or sysctl kernel.yama.ptrace_scope=0";
        case 2:
            return prefix + "Yama's ptrace_scope is 2 (needs CAP_SYS_PTRACE); run with sudo";
        case 3:
            return prefix + "Yama's ptrace_scope is 3 (nobody may trace until the next boot)";
        default:
            break;
    }
    if (target_space == 0) {
        return prefix +
               "it has made itself undumpable (or has changed its uid), or lives in "
               "another user namespace; run with sudo";
    }
    return prefix + explain_security_module(*self);
}

}  // namespace echion
