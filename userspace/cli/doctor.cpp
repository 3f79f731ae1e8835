#include "cli/doctor.h"

#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "base/unique_fd.h"
#include "engine/bpf/bpf_session.h"
#include "engine/perf/perf_event.h"

namespace echion::cli {
namespace {

// Since 5.6; the same number everywhere.
constexpr long kPidfdGetfd = 438;
constexpr long kPidfdOpen = 434;

constexpr engine::Capability kToTrace[] = {engine::Capability::kSysPtrace};

const char* verdict_text(Verdict verdict) {
    switch (verdict) {
        case Verdict::kYes:
            return "yes";
        case Verdict::kLimited:
            return "limited";
        case Verdict::kNo:
            return "no";
    }
    return "?";
}

std::string errno_text(int number) { return number == 0 ? "works" : std::strerror(number); }

Finding examine_bpf() {
    Finding finding{"BPF programs", Verdict::kYes, "loaded and attached", "", ""};
    const auto session = engine::BpfSession::open({.thread_capacity = 64});
    if (!session) {
        const engine::Unavailable& why = session.error();
        finding.verdict = Verdict::kNo;
        finding.detail = why.text().substr(0, why.text().find("; remedy:"));
        finding.cost =
            "-c reads the CPU clock of each thread at every tick: that is less exact and costs "
            "more, and threads that begin and end between two ticks are not told apart";
        finding.remedy = why.remedy;
    }
    return finding;
}

PerfAttempts try_perf() {
    const auto outcome = [](const Result<UniqueFd>& event) {
        return event ? 0 : event.error().system_errno;
    };
    PerfAttempts attempts;
    // Some CPU: the first may be offline, which says nothing of the rights.
    const int cpus = static_cast<int>(::sysconf(_SC_NPROCESSORS_CONF));
    attempts.whole_cpu = ENODEV;
    for (int cpu = 0; cpu < cpus && attempts.whole_cpu == ENODEV; ++cpu) {
        attempts.whole_cpu = outcome(perf::open_cpu_timer(cpu, {}));
    }
    attempts.own_thread = outcome(perf::open_task_timer(0, perf::Inherit::kThreads, {}));
    attempts.own_thread_user =
        outcome(perf::open_task_timer(0, perf::Inherit::kThreads, {.user_only = true}));
    return attempts;
}

// A child that does nothing, ended and reaped at the end.
class IdleChild {
  public:
    IdleChild() : pid_(::fork()) {
        if (pid_ == 0) {
            for (;;) {
                ::pause();
            }
        }
    }
    IdleChild(const IdleChild&) = delete;
    IdleChild& operator=(const IdleChild&) = delete;
    ~IdleChild() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, __WALL);
        }
    }
    [[nodiscard]] pid_t pid() const { return pid_; }

  private:
    pid_t pid_;
};

TraceAttempts try_attach() {
    const IdleChild child;
    TraceAttempts attempts;
    if (child.pid() < 0) {
        return {errno, errno, errno};
    }
    // The same address there as here: it is a fork.
    static const std::uint64_t kProbe = 0x4543484f;
    std::uint64_t copy = 0;
    const iovec into{&copy, sizeof(copy)};
    const iovec from{const_cast<std::uint64_t*>(&kProbe), sizeof(kProbe)};
    if (::process_vm_readv(child.pid(), &into, 1, &from, 1, 0) != sizeof(copy)) {
        attempts.read_memory = errno;
    }
    const UniqueFd process(static_cast<int>(::syscall(kPidfdOpen, child.pid(), 0)));
    const UniqueFd fetched(
        process ? static_cast<int>(::syscall(kPidfdGetfd, process.get(), STDERR_FILENO, 0)) : -1);
    if (!fetched) {
        attempts.fetch_fd = errno;
    }
    if (::ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr) != 0) {
        attempts.seize = errno;
    }
    return attempts;
}

std::string describe_system(const engine::Privileges& privileges) {
    std::string text = "echion " ECHION_VERSION ", kernel " + privileges.kernel_release + ", uid " +
                       std::to_string(privileges.effective_uid) + "\n";
    std::string held;
    for (const engine::Capability capability :
         {engine::Capability::kBpf, engine::Capability::kPerfmon, engine::Capability::kSysPtrace,
          engine::Capability::kSysAdmin}) {
        held += privileges.has(capability) ? std::string(" ") + engine::capability_name(capability)
                                           : "";
    }
    const auto number = [](std::int64_t value, const char* absent) {
        return value < 0 ? std::string(absent) : std::to_string(value);
    };
    const char* const seccomp[] = {"none", "strict", "filter"};
    const bool known_mode = privileges.seccomp_mode >= 0 && privileges.seccomp_mode <= 2;
    text += "  capabilities:" + (held.empty() ? " none of those that help" : held) + "\n";
    text += "  perf_event_paranoid: " + std::to_string(privileges.perf_event_paranoid) +
            ", perf_event_max_sample_rate: " + std::to_string(privileges.perf_max_rate) + "\n";
    text += "  yama ptrace_scope: " + number(privileges.yama_ptrace_scope, "no Yama") +
            ", unprivileged_bpf_disabled: " + number(privileges.unprivileged_bpf_disabled, "-") +
            "\n";
    text += std::string("  seccomp: ") + (known_mode ? seccomp[privileges.seccomp_mode] : "?") +
            ", no_new_privs: " + (privileges.no_new_privileges ? "yes" : "no") +
            ", lockdown: " + (privileges.lockdown.empty() ? "not there" : privileges.lockdown) +
            "\n";
    text += std::string("  kernel types (BTF): ") + (privileges.kernel_has_btf ? "yes" : "no") +
            ", namespaces: user " + (privileges.in_initial_user_namespace ? "initial" : "nested") +
            ", PID " + (privileges.in_initial_pid_namespace ? "initial" : "nested") + "\n";
    return text;
}

}  // namespace

Finding judge_perf(const PerfAttempts& attempts, const engine::Privileges& privileges) {
    Finding finding{"perf events", Verdict::kYes, "", "", ""};
    if (attempts.whole_cpu == 0 && attempts.own_thread == 0) {
        const std::int64_t rate = privileges.perf_max_rate > 0 ? privileges.perf_max_rate : 1;
        const std::int64_t shortest_us = std::max<std::int64_t>(10, (1'000'000 + rate - 1) / rate);
        finding.detail =
            "of CPUs and of threads; shortest interval " + std::to_string(shortest_us) + " us";
        if (shortest_us > 10) {
            finding.remedy = "sudo sysctl kernel.perf_event_max_sample_rate=100000";
        }
        return finding;
    }
    const engine::Unavailable why =
        engine::explain_perf("open a perf event of a CPU", attempts.whole_cpu, privileges);
    finding.detail = why.why;
    finding.remedy = why.remedy;
    if (attempts.own_thread == 0 || attempts.own_thread_user == 0) {
        finding.verdict = Verdict::kLimited;
        finding.detail += attempts.own_thread == 0 ? "; own threads work"
                                                   : "; own threads work, in user mode only";
    } else {
        finding.verdict = Verdict::kNo;
    }
    finding.cost =
        "the sampler's own clock makes the ticks: they come a little late, and come also while no "
        "thread runs";
    if (finding.verdict == Verdict::kLimited) {
        finding.cost += "; -c still has perf events, for processes of your own";
    }
    return finding;
}

Finding judge_attach(const TraceAttempts& attempts, const engine::Privileges& privileges) {
    Finding finding{"attach (-p, -w), own processes", Verdict::kYes, "", "", ""};
    finding.detail = "ptrace: " + errno_text(attempts.seize) +
                     ", process_vm_readv: " + errno_text(attempts.read_memory) +
                     ", pidfd_getfd: " + errno_text(attempts.fetch_fd);
    const bool reads = attempts.read_memory == 0;
    const bool attaches = attempts.seize == 0 && attempts.fetch_fd == 0;
    if (!reads || !attaches) {
        finding.verdict = reads ? Verdict::kLimited : Verdict::kNo;
        finding.cost = reads ? "-p does not work; -w does" : "neither -p nor -w works";
        if (attempts.fetch_fd == ENOSYS) {
            finding.remedy = "use kernel 5.6 or later";
        } else if (privileges.seccomp_mode != 0) {
            finding.remedy =
                "start the container with --cap-add SYS_PTRACE, or a seccomp profile "
                "that allows ptrace, process_vm_readv and pidfd_getfd";
        }
        return finding;
    }
    // The child that was tried is a descendant, which Yama lets pass.
    if (privileges.yama_ptrace_scope >= 1 && !privileges.has(engine::Capability::kSysPtrace)) {
        finding.verdict = privileges.yama_ptrace_scope == 1 ? Verdict::kLimited : Verdict::kNo;
        finding.detail +=
            "; but Yama's ptrace_scope is " + std::to_string(privileges.yama_ptrace_scope);
        finding.cost = "only commands that echion launches itself can be profiled";
        finding.remedy = privileges.yama_ptrace_scope == 3
                             ? "ptrace is off until the machine is started again"
                             : engine::advise(kToTrace, privileges);
    } else if (privileges.yama_ptrace_scope == 3) {
        finding.verdict = Verdict::kNo;
        finding.detail += "; but Yama's ptrace_scope is 3";
        finding.cost = "only commands that echion launches itself can be profiled";
        finding.remedy = "ptrace is off until the machine is started again";
    }
    return finding;
}

Finding judge_other_users(const engine::Privileges& privileges) {
    Finding finding{"attach, other users' processes", Verdict::kYes, "", "", ""};
    if (!privileges.has(engine::Capability::kSysPtrace)) {
        finding.verdict = Verdict::kNo;
        finding.detail = "needs CAP_SYS_PTRACE";
        finding.cost = "-p and -w reach processes of this user only";
        finding.remedy = engine::advise(kToTrace, privileges);
    } else if (!privileges.in_initial_user_namespace) {
        finding.verdict = Verdict::kLimited;
        finding.detail = "CAP_SYS_PTRACE of a user namespace";
        finding.cost = "-p and -w reach processes of this user namespace only";
        finding.remedy = "run echion outside, on the host";
    } else {
        finding.detail = "CAP_SYS_PTRACE";
    }
    return finding;
}

std::vector<Finding> examine() {
    const engine::Privileges privileges = engine::read_privileges();
    return {examine_bpf(),
            judge_perf(try_perf(), privileges),
            judge_attach(try_attach(), privileges),
            judge_other_users(privileges),
            {"launch (echion COMMAND)", Verdict::kYes, "needs no rights", "", ""}};
}

std::string format_findings(const engine::Privileges& privileges,
                            const std::vector<Finding>& findings) {
    std::string text = describe_system(privileges) + "\n";
    for (const Finding& finding : findings) {
        char line[80];
        std::snprintf(line, sizeof(line), "%-32s %-8s", finding.name.c_str(),
                      verdict_text(finding.verdict));
        text += line + finding.detail + "\n";
        if (!finding.cost.empty()) {
            text += "    without it: " + finding.cost + "\n";
        }
        if (!finding.remedy.empty()) {
            text += "    remedy: " + finding.remedy + "\n";
        }
    }
    return text;
}

std::string run_doctor() { return format_findings(engine::read_privileges(), examine()); }

}  // namespace echion::cli
