#include "inject/seccomp_gate.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "console/refusal.h"
#include "inject/prompt_tracer.h"
#include "platform/linux/guard_pages.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"

namespace echion::inject {
namespace {

constexpr unsigned kCapSysAdmin = 21;                        // capabilities(7)
constexpr std::uint64_t kInitialUserNamespace = 0xeffffffd;  // PROC_USER_INIT_INO
constexpr unsigned kGlibcBroadcast = 33;                     // SIGSETXID (internal-signals.h)
constexpr unsigned kStrictMode = 1;                          // SECCOMP_MODE_STRICT
// One word each at least, and four that the kernel adds: see kMaxThreadInstructions.
constexpr unsigned kMaxFilters = kMaxThreadInstructions / 5;

constexpr char kOverride[] =
    "; if the filter is known to do no harm (a container runtime's default, say), attach with "
    "--allow-seccomp; otherwise use echion -w";

/// What the filter does to a call, for the user.
std::string describe(const CallObjection& objection) {
    const std::string call = objection.call->name;
    const std::string may = objection.is_certain ? "" : "may ";
    const std::string s = objection.is_certain ? "s" : "";
    switch (objection.effect) {
        case FilterEffect::kKills:
            return may + "kill" + s + " on " + call;
        case FilterEffect::kTraps:
            return may + "answer" + s + " " + call + " with a signal (SIGSYS)";
        case FilterEffect::kAsks:
            return may + "make" + s + " " + call + " wait for another process's consent";
        default:
            return may + "refuse" + s + " " + call + " (" + std::strerror(objection.system_errno) +
                   ")";
    }
}

/// Whether this kernel, which is the target's as well, has the guards that glibc asks for.
bool has_guard_advice() {
    const auto bytes = static_cast<std::size_t>(getpagesize());
    void* const page =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return false;
    }
    const bool is_known = madvise(page, bytes, MADV_GUARD_INSTALL) == 0;
    munmap(page, bytes);
    return is_known;
}

}  // namespace

CallFacts read_call_facts(pid_t pid, MemoryReader& reader, const TargetCode& code) {
    const auto has = [&](const char* name) {
        return code.find_libc_function(reader, name).has_value();
    };
    const bool is_glibc = has("gnu_get_libc_version");
    CallFacts facts;
    facts.makes_threads_by_clone3 = is_glibc && has("closefrom");                  // 2.34
    facts.has_fstat_by_fstatat = is_glibc && has("fstat") && !has("pidfd_spawn");  // 2.33, 2.39
    facts.has_other_c_library = !is_glibc;
    facts.maps_stacks_whole = is_glibc && has("pthread_gettid_np");  // 2.42
    facts.maps_heaps_plainly = is_glibc && has("openat2");           // 2.43
    facts.has_guard_advice = has_guard_advice();
    // glibc from 2.34 on makes ready with the first thread (nptl/pthread_create.c, late_init()).
    const auto info = read_process_info(pid);
    facts.has_to_prepare_for_threads = facts.makes_threads_by_clone3 && info &&
                                       (info->caught_signals >> (kGlibcBroadcast - 1) & 1) == 0;
    return facts;
}

SeccompGate::SeccompGate(pid_t pid, bool allow_unknown, const CallFacts& facts)
    : pid_(pid), allow_unknown_(allow_unknown), readable_(Readable::kYes), facts_(facts) {
    const auto self = read_process_info(kOwnProcess);
    const std::uint64_t space = read_namespace(kOwnProcess, "user");
    if (self && self->seccomp != 0) {
        readable_ = Readable::kOwnFilter;
    } else if (!self || (self->effective_capabilities >> kCapSysAdmin & 1) == 0 ||
               (space != 0 && space != kInitialUserNamespace)) {
        readable_ = Readable::kNoCapability;
    }
}

bool SeccompGate::refuse(pid_t tid, std::string text) {
    refused_.insert_or_assign(tid,
                              InjectFailure{{ErrorKind::kRefused, 0, "seccomp"}, std::move(text)});
    return false;
}

bool SeccompGate::refuse_unknown(pid_t tid, const std::string& why) {
    return allow_unknown_ ||
           refuse(tid, describe_process(pid_) +
                           " runs under a seccomp filter that could end it when it is attached "
                           "to, and " +
                           why + kOverride);
}

bool SeccompGate::may_stop(pid_t tid) {
    if (refused_.contains(tid)) {
        return false;
    }
    const auto info = read_thread_info(pid_, tid);
    if (!info || info->seccomp == 0) {
        return true;
    }
    if (info->seccomp == kStrictMode) {
        return refuse(tid, describe_process(pid_) +
                               " is in seccomp's strict mode, which kills on all that attaching "
                               "needs; use echion -w");
    }
    switch (readable_) {
        case Readable::kYes:
            return true;
        case Readable::kOwnFilter:
            return refuse_unknown(tid,
                                  "echion may not read it, as it runs under one itself; run echion "
                                  "as root outside of the container");
        case Readable::kNoCapability:
            break;
    }
    return refuse_unknown(
        tid,
        "echion may not read it without CAP_SYS_ADMIN; run echion as root outside "
        "of containers");
}

Result<std::vector<SeccompFilter>> SeccompGate::read_filters(PtraceSession& session) const {
    std::vector<SeccompFilter> filters;
    std::size_t total = 0;
    for (unsigned index = 0; index <= kMaxFilters; ++index) {
        auto filter = session.read_seccomp_filter(index);
        if (!filter) {
            const bool is_end = filter.error().system_errno == ENOENT;
            if (is_end) {
                return filters;
            }
            // EINVAL and EACCES are also said of a thread that has none.
            const auto info = read_thread_info(pid_, session.tid());
            if (info && info->seccomp == 0) {
                return std::vector<SeccompFilter>();
            }
            return tl::unexpected(filter.error());
        }
        total += filter->size();
        if (total > kMaxThreadInstructions) {
            break;
        }
        filters.push_back(std::move(*filter));
    }
    return fail(ErrorKind::kBoundExceeded, "too many seccomp filters");
}

void SeccompGate::judge(std::vector<SeccompFilter> filters, const CallFacts& facts) {
    const auto is_same = [](const SeccompFilter& one, const SeccompFilter& other) {
        return one.size() == other.size() &&
               std::memcmp(one.data(), other.data(), one.size() * sizeof(sock_filter)) == 0;
    };
    if (filters.size() == filters_.size() && facts == facts_ &&
        std::equal(filters.begin(), filters.end(), filters_.begin(), is_same)) {
        return;
    }
    filters_ = std::move(filters);
    facts_ = facts;
    objection_ = judge_filters(filters_, facts_);
    std::size_t steps = kMaxThreadInstructions;
    const auto restart = evaluate_call(filters_, restart_call(), steps);
    may_restart_ = restart && effect_of(restart->worst) == FilterEffect::kAllows;
}

bool SeccompGate::may_borrow(PtraceSession& session) {
    const OrdinaryTurn turn;  // the filters are the target's, and may be long
    auto filters = read_filters(session);
    if (!filters) {
        if (allow_unknown_ || filters.error().system_errno == ESRCH) {
            return true;
        }
        (void)session.avoid_restart_call();
        return refuse_unknown(session.tid(),
                              "it cannot be read (" +
                                  std::string(filters.error().system_errno != 0
                                                  ? std::strerror(filters.error().system_errno)
                                                  : filters.error().what) +
                                  ")");
    }
    const auto rseq_area = session.read_rseq_area();
    CallFacts facts = facts_;
    facts.has_rseq = rseq_area && !rseq_area->is_null();
    judge(std::move(*filters), facts);
    if (filters_.empty()) {
        return true;
    }
    if (!may_restart_) {
        (void)session.avoid_restart_call();
    }
    if (!objection_) {
        return refuse_unknown(session.tid(),
                              std::string("it cannot be judged (") + objection_.error().what + ")");
    }
    if (objection_->call == nullptr || (allow_unknown_ && !objection_->is_certain)) {
        return true;
    }
    const std::string why = "cannot attach to " + describe_process(pid_) + ": its seccomp filter " +
                            describe(*objection_) + ", which sampling from within needs";
    return refuse(session.tid(), why + (objection_->is_certain ? "; use echion -w" : kOverride));
}

const InjectFailure* SeccompGate::find_refusal(std::span<const pid_t> tids) const {
    const InjectFailure* found = nullptr;
    for (const pid_t tid : tids) {
        const auto place = refused_.find(tid);
        if (place == refused_.end()) {
            return nullptr;
        }
        found = found == nullptr ? &place->second : found;
    }
    return found;
}

}  // namespace echion::inject
