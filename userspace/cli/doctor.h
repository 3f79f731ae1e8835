#pragma once

#include <string>
#include <vector>

#include "engine/privileges.h"

namespace echion::cli {

/// Whether one way of working is open on this machine, to this user.
enum class Verdict { kYes, kLimited, kNo };

/// One line of the examination, and what follows from it.
struct Finding {
    std::string name;  ///< "BPF programs"
    Verdict verdict = Verdict::kYes;
    std::string detail;  ///< what was tried and what came of it
    std::string cost;    ///< what is lost without it; empty if nothing
    std::string remedy;  ///< one line; empty if there is none
};

/// Tries everything that Echion uses of the kernel, on children of this process and on nothing
/// else, and gives it all back. Takes about a tenth of a second.
std::vector<Finding> examine();

/// The findings as text for a terminal, with the facts that explain them.
std::string format_findings(const engine::Privileges& privileges,
                            const std::vector<Finding>& findings);

/// `echion --doctor`: the examination of this machine.
std::string run_doctor();

// Parts that judge by facts alone, for tests.

/// What an attempt with perf_event_open came to: its errno, 0 for success.
struct PerfAttempts {
    int whole_cpu = 0;        ///< of everything that runs on a CPU
    int own_thread = 0;       ///< in the kernel too
    int own_thread_user = 0;  ///< in user mode only
};
Finding judge_perf(const PerfAttempts& attempts, const engine::Privileges& privileges);

/// What attempts on a child of this process came to, as errno.
struct TraceAttempts {
    int seize = 0;        ///< ptrace(PTRACE_SEIZE)
    int read_memory = 0;  ///< process_vm_readv
    int fetch_fd = 0;     ///< pidfd_getfd
};
Finding judge_attach(const TraceAttempts& attempts, const engine::Privileges& privileges);
Finding judge_other_users(const engine::Privileges& privileges);

}  // namespace echion::cli
