#include "inject/helper_spawn.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>

#include "inject/prompt_tracer.h"
#include "inject/ptrace_session.h"
#include "inject/refusal.h"
#include "inject/safe_point.h"
#include "inject/seccomp_gate.h"
#include "inject/target_memory.h"
#include "inject/unwinder.h"
#include "platform/process_info.h"

namespace echion::inject {
namespace {

constexpr std::int64_t kStopNs = 100'000'000;           // a thread that can be stopped, stops
constexpr std::int64_t kCallNs = 2 * kNanosPerSecond;   // one borrowed system call
constexpr std::int64_t kSpawnNs = 2 * kNanosPerSecond;  // the borrowed pthread_create()
constexpr std::int64_t kNapNs = 20'000;
constexpr std::size_t kMaxRanked = 512;

InjectFailure failure(const Error& error, std::string text) { return {error, std::move(text)}; }

/// How willingly a thread is borrowed; lower is better.
int rank(pid_t pid, pid_t tid, char state) {
    if (state == 'D') {
        return 4;
    }
    const auto call = read_blocked_call(pid, tid);
    if (!call || call->number < 0) {
        return 1;
    }
    arch::SystemCallState waiting;
    waiting.number = call->number;
    if (arch::is_disturbed_by_stop(waiting)) {
        return 3;
    }
    return arch::is_waiting_call(call->number) ? 0 : 2;
}

/// Attempts that go on until one thread is at a safe point or the time is over.
class Borrower {
  public:
    Borrower(const SpawnRequest& request, const PromptTracer& tracer, InjectCost& cost)
        : request_(request),
          tracer_(tracer),
          cost_(cost),
          unwinder_(request.reader, request.code),
          seccomp_(request.pid, request.limits.allow_unknown_seccomp),
          safe_point_(request.reader, request.code, unwinder_) {}

    ~Borrower() {
        // They cannot be let go before they stop; the kernel does that when this process ends.
        for (auto& [tid, session] : unstoppable_) {
            session.abandon();
        }
    }
    Borrower(const Borrower&) = delete;
    Borrower& operator=(const Borrower&) = delete;

    tl::expected<Address, InjectFailure> run() {
        const std::int64_t deadline_ns = monotonic_ns() + request_.limits.safe_point_ns;
        do {
            const std::vector<pid_t> threads = rank_threads(request_.pid);
            for (const pid_t tid : threads) {
                if (!seccomp_.may_stop(tid)) {
                    continue;
                }
                if (auto done = try_thread(tid)) {
                    return std::move(*done);
                }
                if (monotonic_ns() >= deadline_ns) {
                    break;
                }
            }
            if (const InjectFailure* refusal = seccomp_.find_refusal(threads)) {
                return tl::unexpected(*refusal);
            }
            // Not in step with anything that the target does every so often.
            const timespec pause = make_timespec(200'000 + monotonic_ns() % 1'000'000);
            nanosleep(&pause, nullptr);
        } while (monotonic_ns() < deadline_ns);
        return tl::unexpected(give_up());
    }

  private:
    using Outcome = std::optional<tl::expected<Address, InjectFailure>>;

    /// Reads the unwind tables that the thread's judgement will need, before the thread is stopped.
    void warm_up(pid_t tid) {
        const auto call = read_blocked_call(request_.pid, tid);
        if (call) {
            const arch::Registers place =
                arch::make_place(Address(call->instruction_pointer), Address(call->stack_pointer));
            unwinder_.walk(place, 8, [](const NativeFrame&) { return true; });
        }
    }

    /// One attempt; empty when another thread or another moment has to be tried.
    Outcome try_thread(pid_t tid) {
        warm_up(tid);
        auto session = take_session(tid);
        if (!session) {
            if (session.error().system_errno == ESRCH) {
                return {};
            }
            return tl::unexpected(failure(
                session.error(), explain_refusal(request_.pid, session.error().system_errno)));
        }
        const PromptThread prompt(tid, tracer_);
        const std::int64_t begin_ns = monotonic_ns();
        auto outcome = try_session(*session, begin_ns);
        if (!outcome) {
            if (session->state() == PtraceSession::State::kRunning) {
                // It does not stop, so it cannot be detached from, and it stays ours.
                unstoppable_.emplace(tid, std::move(*session));
            } else {
                session->detach();
            }
            note_probe(monotonic_ns() - begin_ns);
        }
        return outcome;
    }

    Result<PtraceSession> take_session(pid_t tid) {
        const auto known = unstoppable_.find(tid);
        if (known == unstoppable_.end()) {
            return PtraceSession::seize(tid);
        }
        PtraceSession session = std::move(known->second);
        unstoppable_.erase(known);
        return session;
    }

    void note_probe(std::int64_t duration_ns) {
        ++cost_.probes;
        cost_.probes_ns += duration_ns;
        cost_.max_probe_ns = std::max(cost_.max_probe_ns, duration_ns);
    }

    Outcome try_session(PtraceSession& session, std::int64_t begin_ns) {
        if (auto status = session.interrupt(begin_ns + kStopNs); !status) {
            last_doing_ = status.error().system_errno == ETIMEDOUT
                              ? "in an uninterruptible sleep (state D)"
                              : "ending";
            return {};
        }
        if (session.state() == PtraceSession::State::kGroupStop) {
            return tl::unexpected(failure(
                {ErrorKind::kRefused, 0, "the target is stopped"},
                describe_process(request_.pid) + " is stopped; resume it first (kill -CONT " +
                    std::to_string(request_.pid) + "), or use echion -w"));
        }
        const std::int64_t stopped_ns = monotonic_ns();
        if (!seccomp_.may_borrow(session)) {
            return {};
        }
        const auto context = session.save_context();
        const auto rseq_area = session.read_rseq_area();
        if (!context || !rseq_area) {
            return {};
        }
        const SafePointVerdict verdict = safe_point_.judge(context->registers, *rseq_area);
        last_doing_ = verdict.doing;
        if (!verdict.is_safe) {
            return {};
        }
        const arch::WayBack way = arch::make_way_back(*context, request_.code.sigreturn());
        if (!write_target(request_.pid, way.place, way.bytes)) {
            last_doing_ += ", with no room on its stack";
            return {};
        }
        cost_.borrowed_tid = session.tid();
        cost_.borrowed_doing = verdict.doing;
        if (auto status = session.borrow(*context); !status) {
            return {};
        }
        auto result = use_thread(session, *context, way);
        // Whatever happened, the thread goes on where it was.
        if (auto status = session.put_back(monotonic_ns() + kCallNs); !status && result) {
            result = tl::unexpected(
                failure(status.error(), "lost hold of " + describe_process(request_.pid)));
        }
        // From here on the helper needs nobody to know that the region may go, should Echion die. A
        // thread that puts itself back says so itself.
        if (result && !is_left_alone_) {
            (void)write_target_value(request_.pid,
                                     *result + kStubCodeBytes + offsetof(StubParameters, has_left),
                                     std::uint32_t{kThreadHasLeft});
        }
        session.detach();
        // A thread that ran loses time from the request on. One that was blocked loses none until
        // it has woken up to be stopped.
        const bool was_waiting = arch::system_call_state(context->registers).is_interrupted();
        cost_.pause_ns = monotonic_ns() - (was_waiting ? stopped_ns : begin_ns);
        return result;
    }

    Result<long> call(PtraceSession& session, const arch::ThreadContext& context,
                      const arch::WayBack& way, long number,
                      std::initializer_list<std::uintptr_t> arguments) {
        const arch::Registers registers =
            arch::make_system_call(context.registers, request_.code.system_call_and_return(),
                                   way.entry, number, {arguments.begin(), arguments.size()});
        return session.run_system_call(registers, monotonic_ns() + kCallNs);
    }

    tl::expected<Address, InjectFailure> use_thread(PtraceSession& session,
                                                    const arch::ThreadContext& context,
                                                    const arch::WayBack& way) {
        const auto mapped = call(session, context, way, SYS_mmap,
                                 {0, kRegionBytes, PROT_READ | PROT_EXEC,
                                  MAP_PRIVATE | MAP_ANONYMOUS, ~std::uintptr_t{0}, 0});
        if (!mapped || (*mapped < 0 && *mapped > -4096)) {
            return tl::unexpected(call_failure(mapped, "could not map memory in "));
        }
        const Address region(static_cast<std::uintptr_t>(*mapped));
        auto result = fill_and_start(session, context, way, region);
        if (!result && session.is_stopped() && session.state() != PtraceSession::State::kFault) {
            (void)call(session, context, way, SYS_munmap, {region.value(), kRegionBytes});
        }
        return result;
    }

    tl::expected<Address, InjectFailure> fill_and_start(PtraceSession& session,
                                                        const arch::ThreadContext& context,
                                                        const arch::WayBack& way, Address region) {
        const StubCode code = stub_code();
        const Address data = region + kStubCodeBytes;
        StubParameters parameters = request_.parameters;
        parameters.region = region.value();
        parameters.helper = region.value() + code.helper_offset;
        parameters.way_back = way.entry.value();
        parameters.system_call_and_return = request_.code.system_call_and_return().value();
        Status written = code.size_bytes > kStubCodeBytes
                             ? fail(ErrorKind::kNoSpace, "the code for the target is too long")
                             : session.write_memory(region, {code.start, code.size_bytes});
        if (written) {
            written = session.write_memory(data, std::as_bytes(std::span(&parameters, 1)));
        }
        if (!written) {
            return tl::unexpected(failure(
                written.error(), explain_refusal(request_.pid, written.error().system_errno)));
        }
        if (auto made = make_writable(session, context, way, data); !made) {
            return tl::unexpected(made.error());
        }
        const arch::Registers start = arch::make_stub_call(
            context.registers, region + code.start_offset, region + kRegionBytes, data,
            kRegionBytes - kStubCodeBytes, way.entry);
        if (auto status = session.run(start); !status) {
            return tl::unexpected(
                failure(status.error(), "lost hold of " + describe_process(request_.pid)));
        }
        return wait_for_spawn(session, region);
    }

    /// The stub makes its data writable itself, which saves a stop, but it has no place to say that
    /// this is refused. Where a limit stands in the way, it is seen here.
    tl::expected<void, InjectFailure> make_writable(PtraceSession& session,
                                                    const arch::ThreadContext& context,
                                                    const arch::WayBack& way, Address data) {
        rlimit limit{};
        if (prlimit(request_.pid, RLIMIT_DATA, nullptr, &limit) == 0 &&
            limit.rlim_cur == RLIM_INFINITY) {
            return {};
        }
        const auto made = call(session, context, way, SYS_mprotect,
                               {data.value(), kRegionBytes - kStubCodeBytes,
                                static_cast<std::uintptr_t>(PROT_READ | PROT_WRITE)});
        if (!made || *made != 0) {
            return tl::unexpected(call_failure(made, "could not map memory in "));
        }
        return {};
    }

    tl::expected<Address, InjectFailure> wait_for_spawn(PtraceSession& session, Address region) {
        const Address place = region + kStubCodeBytes + offsetof(StubParameters, spawn_state);
        const std::int64_t since_ns = monotonic_ns();
        std::uint32_t state = kSpawning;
        while (state == kSpawning && monotonic_ns() < since_ns + kSpawnNs) {
            const auto read = request_.reader.read_value<std::uint32_t>(place);
            state = read ? *read : static_cast<std::uint32_t>(kSpawning);
            if (auto status = session.poll_stop(); !status) {
                return tl::unexpected(failure(
                    status.error(), describe_process(request_.pid) + " ended while attaching"));
            }
            if (session.state() == PtraceSession::State::kFault) {
                return tl::unexpected(failure(
                    {ErrorKind::kInvalid, 0, "fault in the target"},
                    "could not make a thread in " + describe_process(request_.pid) + " (signal " +
                        std::to_string(session.fault_signal()) + "); it has been put back"));
            }
            if (session.is_stopped()) {
                (void)session.resume();  // a stop of the whole process; it takes effect later
            }
            if (state == kSpawning) {
                nap();
            }
        }
        (void)session.interrupt(monotonic_ns() + kCallNs);
        // The thread stands still: what it says now is final.
        const auto read = request_.reader.read_value<std::uint32_t>(place);
        state = read ? *read : static_cast<std::uint32_t>(kSpawning);
        switch (state) {
            case kSpawned:
                return region;
            case kLeavingAlone:
                is_left_alone_ = true;
                session.forget_context();
                return region;
            case kSpawnFailed: {
                const auto error = request_.reader.read_value<std::int32_t>(
                    region + kStubCodeBytes + offsetof(StubParameters, spawn_error));
                const int cause = error ? *error : EAGAIN;
                return tl::unexpected(failure({ErrorKind::kSystem, cause, "make a thread"},
                                              "could not make a thread in " +
                                                  describe_process(request_.pid) + ": " +
                                                  std::strerror(cause)));
            }
            default:
                // It waits for a lock in the middle of pthread_create(), and must come out of it by
                // itself: it will put itself back, and the helper finds nobody and ends.
                session.forget_context();
                session.detach();
                return tl::unexpected(failure({ErrorKind::kSystem, ETIMEDOUT, "make a thread"},
                                              "making a thread in " +
                                                  describe_process(request_.pid) +
                                                  " takes too long; try again"));
        }
    }

    static void nap() {
        const timespec pause = make_timespec(kNapNs);
        nanosleep(&pause, nullptr);
    }

    InjectFailure call_failure(const Result<long>& result, const char* what) const {
        const Error error =
            result ? Error{ErrorKind::kSystem, static_cast<int>(-*result), what} : result.error();
        return failure(error, what + describe_process(request_.pid) + ": " +
                                  (result ? std::strerror(error.system_errno) : error.what));
    }

    InjectFailure give_up() const {
        if (cost_.probes == 0 && last_doing_.empty()) {
            return failure({ErrorKind::kSystem, ESRCH, "no thread"},
                           describe_process(request_.pid) + " has ended");
        }
        return failure({ErrorKind::kRefused, ETIMEDOUT, "no safe point"},
                       "found no moment to attach safely to " + describe_process(request_.pid) +
                           " in " + std::to_string(cost_.probes) + " tries (last it was " +
                           last_doing_ + "); it goes on untouched; try again, or use echion -w");
    }

    const SpawnRequest& request_;
    const PromptTracer& tracer_;
    InjectCost& cost_;
    Unwinder unwinder_;
    SeccompGate seccomp_;
    SafePoint safe_point_;
    std::string last_doing_;
    bool is_left_alone_ = false;
    std::map<pid_t, PtraceSession> unstoppable_;  // threads in an uninterruptible sleep
};

}  // namespace

std::vector<pid_t> rank_threads(pid_t pid) {
    std::vector<std::pair<int, pid_t>> ranked;
    (void)for_each_thread(pid, [&](pid_t tid) {
        const auto info = read_thread_info(pid, tid);
        if (info && info->state != 'Z' && info->state != 'X') {
            ranked.emplace_back(rank(pid, tid, info->state), tid);
        }
        return ranked.size() < kMaxRanked;
    });
    std::stable_sort(ranked.begin(), ranked.end(),
                     [](const auto& left, const auto& right) { return left.first < right.first; });
    std::vector<pid_t> threads;
    threads.reserve(ranked.size());
    for (const auto& [unused, tid] : ranked) {
        threads.push_back(tid);
    }
    return threads;
}

tl::expected<Address, InjectFailure> spawn_helper(const SpawnRequest& request, InjectCost& cost) {
    const PromptTracer tracer;
    return Borrower(request, tracer, cost).run();
}

}  // namespace echion::inject
