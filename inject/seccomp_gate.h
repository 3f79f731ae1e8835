#pragma once

#include <sys/types.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "inject/loader.h"
#include "inject/needed_calls.h"
#include "inject/ptrace_session.h"
#include "inject/target_code.h"
#include "memory/reader.h"

namespace echion::inject {

/// What is known of a process before it is stopped, of a thread's calls: has_rseq and
/// shares_descriptor_table are left false. A C library's version is told by names that it exports.
CallFacts read_call_facts(pid_t pid, MemoryReader& reader, const TargetCode& code);

/// Keeps threads from being borrowed that have a seccomp filter which would end the process for
/// what attaching and sampling do in it. Filters belong to threads: the helper thread inherits the
/// borrowed one's, and the sampler the helper's, so it is that thread's which count. A thread that
/// has once been refused stays so, as filters can only be added.
///
/// A filter that another thread adds to all of them (SECCOMP_FILTER_FLAG_TSYNC) after the look is
/// not seen.
class SeccompGate {
  public:
    /// `allow_unknown`: let threads pass of whose filters it is not known what they do. `facts`: of
    /// the process; has_rseq is looked up for each thread.
    SeccompGate(pid_t pid, bool allow_unknown, const CallFacts& facts);

    /// Whether the thread may be stopped at all: not in strict mode, nor with filters that cannot
    /// be read, as the stop itself may make it call what they kill on.
    bool may_stop(pid_t tid);
    /// Whether the thread, stopped by interrupt() and otherwise untouched, may be borrowed. Has it
    /// not make restart_syscall(2) where that would do harm. To be called at every such stop.
    bool may_borrow(PtraceSession& session);

    /// Why none of these threads may be used; null if one may.
    [[nodiscard]] const InjectFailure* find_refusal(std::span<const pid_t> tids) const;

  private:
    enum class Readable : std::uint8_t { kYes, kNoCapability, kOwnFilter };

    Result<std::vector<SeccompFilter>> read_filters(PtraceSession& session) const;
    void judge(std::vector<SeccompFilter> filters, const CallFacts& facts);
    bool refuse(pid_t tid, std::string text);
    bool refuse_unknown(pid_t tid, const std::string& why);

    pid_t pid_;
    bool allow_unknown_;
    Readable readable_;
    std::map<pid_t, InjectFailure> refused_;
    // The last filters that were judged, as most threads have the same.
    std::vector<SeccompFilter> filters_;
    Result<CallObjection> objection_;
    CallFacts facts_;
    bool may_restart_ = true;
};

}  // namespace echion::inject
