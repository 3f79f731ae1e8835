#include "inject/helper_spawn.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "console/refusal.h"
#include "inject/prompt_tracer.h"
#include "inject/ptrace_session.h"
#include "inject/safe_point.h"
#include "inject/seccomp_gate.h"
#include "inject/stack_room.h"
#include "inject/tracer_thread.h"
#include "inject/unwinder.h"
#include "platform/process_info.h"
#include "platform/program_image.h"

namespace echion::inject {
namespace {

constexpr std::int64_t kStopNs = 100'000'000;           // a thread that can be stopped, stops
constexpr std::int64_t kCallNs = 2 * kNanosPerSecond;   // one borrowed system call
constexpr std::int64_t kSpawnNs = 2 * kNanosPerSecond;  // the borrowed pthread_create()
// After this time a pthread_create() that waits for a lock is given up, and looked at again.
constexpr std::int64_t kGiveUpNs = 100'000'000;
constexpr std::int64_t kNapNs = 20'000;
constexpr std::size_t kMaxRanked = 512;
// A thread that ends may not be traced either, nor, until it has ended, the first thread of a
// process in which another one executes a program, though it seems to live: where it is only that,
// it is over by then.
constexpr std::int64_t kRefusedNs = 100'000'000;

InjectFailure failure(const Error& error, std::string text) { return {error, std::move(text)}; }

/// How willingly a thread is borrowed; lower is better.
int rank(pid_t pid, pid_t tid) {
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
    using Outcome = std::optional<tl::expected<Address, InjectFailure>>;

    Borrower(const SpawnRequest& request, InjectCost& cost, MapLookup map)
        : request_(request),
          cost_(cost),
          deadline_ns_(monotonic_ns() + request.limits.safe_point_ns),
          map_(std::move(map)),
          unwinder_(request.reader, request.code),
          seccomp_(request.target.pid(), request.limits.allow_unknown_seccomp, find_facts(request)),
          safe_point_(request.reader, request.code, unwinder_, map_) {}

    /// Tries one thread after the other. Nothing when a thread cannot be let go: then the calling
    /// thread has to end, which lets go of it, and another one goes on.
    Outcome run() {
        if (is_over()) {
            return tl::unexpected(give_up());
        }
        const PromptTracer tracer;
        tracer_ = &tracer;
        is_stuck_ = false;
        do {
            const auto threads = rank_threads(pid());
            if (!threads) {
                return tl::unexpected(
                    failure(threads.error(), explain_refusal(pid(), threads.error().system_errno)));
            }
            for (const pid_t tid : *threads) {
                if (!seccomp_.may_stop(tid)) {
                    continue;
                }
                auto done = try_thread(tid);
                if (done || is_stuck_) {
                    return done;
                }
                if (is_over()) {
                    break;
                }
            }
            if (const InjectFailure* refusal = seccomp_.find_refusal(*threads)) {
                return tl::unexpected(*refusal);
            }
            // Not in step with anything that the target does every so often.
            sleep_ns(200'000 + monotonic_ns() % 1'000'000);
        } while (!is_over() && !request_.target.has_ended());
        return tl::unexpected(give_up());
    }

    [[nodiscard]] InjectFailure give_up() {
        if (request_.limits.is_cancelled()) {
            return {{ErrorKind::kSystem, EINTR, "cancelled"},
                    "interrupted; " + describe_process(pid()) + " goes on untouched"};
        }
        if (auto status = request_.target.check(); !status) {
            return changed(status.error());
        }
        if (cost_.probes == 0 && last_doing_.empty()) {
            last_doing_ = "in an uninterruptible sleep (state D)";
        }
        return failure({ErrorKind::kRefused, ETIMEDOUT, "no safe point"},
                       "found no moment to attach safely to " + describe_process(pid()) + " in " +
                           std::to_string(cost_.probes) + " tries (last it was " + last_doing_ +
                           "); it goes on untouched; try again, or use echion -w");
    }

  private:
    static CallFacts find_facts(const SpawnRequest& request) {
        CallFacts facts = read_call_facts(request.target.pid(), request.reader, request.code);
        facts.shares_descriptor_table = request.parameters.wants_own_table == 0;
        return facts;
    }

    [[nodiscard]] pid_t pid() const { return request_.target.pid(); }
    [[nodiscard]] bool is_over() const {
        return monotonic_ns() >= deadline_ns_ || request_.limits.is_cancelled();
    }

    /// Reads the unwind tables that the thread's judgement will need, before the thread is stopped.
    void warm_up(pid_t tid) {
        const auto call = read_blocked_call(pid(), tid);
        if (call) {
            const arch::Registers place =
                arch::make_place(Address(call->instruction_pointer), Address(call->stack_pointer));
            unwinder_.walk(place, 8, [](const NativeFrame&) { return true; });
        }
    }

    /// One attempt; empty when another thread or another moment has to be tried.
    Outcome try_thread(pid_t tid) {
        warm_up(tid);
        auto session = PtraceSession::seize(tid);
        if (!session) {
            // A thread that is ending may not be traced either, and its number may be that of one
            // that executes another program by now.
            if (session.error().system_errno == ESRCH || is_ending(tid)) {
                return {};
            }
            refused_since_ns_ = refused_since_ns_ != 0 ? refused_since_ns_ : monotonic_ns();
            if (monotonic_ns() - refused_since_ns_ < kRefusedNs) {
                return {};
            }
            if (auto status = request_.target.check(); !status) {
                return tl::unexpected(changed(status.error()));
            }
            return tl::unexpected(
                failure(session.error(), explain_refusal(pid(), session.error().system_errno)));
        }
        refused_since_ns_ = 0;
        const PromptThread prompt(tid, *tracer_);
        const std::int64_t begin_ns = monotonic_ns();
        auto outcome = try_session(*session, begin_ns);
        if (!outcome) {
            if (session->state() == PtraceSession::State::kRunning) {
                session->abandon();
                is_stuck_ = true;
            }
            session->detach();
            note_probe(monotonic_ns() - begin_ns);
        }
        // The number may have become another's in an exec, which only our end lets go.
        is_stuck_ = is_stuck_ || session->state() == PtraceSession::State::kGone;
        return outcome;
    }

    [[nodiscard]] bool is_ending(pid_t tid) const {
        const auto info = read_thread_info(pid(), tid);
        return !info || info->state == 'Z' || info->state == 'X';
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
            return tl::unexpected(failure({ErrorKind::kRefused, 0, "the target is stopped"},
                                          describe_process(pid()) +
                                              " is stopped; resume it first (kill -CONT " +
                                              std::to_string(pid()) + "), or use echion -w"));
        }
        const std::int64_t stopped_ns = monotonic_ns();
        if (auto status = request_.target.check_thread(session.tid()); !status) {
            if (status.error().kind == ErrorKind::kRefused) {
                return tl::unexpected(changed(status.error()));
            }
            last_doing_ = "ending";
            return {};
        }
        if (!session.keep_call_undisturbed()) {
            return {};
        }
        if (!seccomp_.may_borrow(session)) {
            return {};
        }
        const auto context = session.save_context();
        const auto rseq_area = session.read_rseq_area();
        if (!context || !rseq_area) {
            return {};
        }
        SafePointVerdict verdict = safe_point_.judge(context->registers, *rseq_area);
        last_doing_ = verdict.doing;
        if (!verdict.is_safe) {
            return {};
        }
        const arch::WayBack way = arch::make_way_back(*context, request_.code.sigreturn());
        const StackBounds bounds{request_.target.in_main_stack(), session.tid() == pid(),
                                 std::move(verdict.alternate_stacks)};
        const Status has_room = check_stack_room(
            map_, context->registers, bounds, arch::stack_pointer(context->registers) - way.place);
        if (!has_room) {
            last_doing_ = has_room.error().what;
            return {};
        }
        if (!request_.target.memory().write(way.place, way.bytes)) {
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
            result = tl::unexpected(lost_hold(status.error()));
        }
        is_stuck_ = session.state() == PtraceSession::State::kRunning;
        // From here on the helper needs nobody to know that the region may go, should Echion die. A
        // thread that puts itself back says so itself.
        if (result && !is_left_alone_) {
            (void)request_.target.write_later(
                *result + kStubCodeBytes + offsetof(StubParameters, has_left),
                std::uint32_t{kThreadHasLeft});
        }
        session.detach();
        // A thread that ran loses time from the request on. One that was blocked loses none until
        // it has woken up to be stopped.
        const bool was_waiting = arch::system_call_state(context->registers).is_interrupted();
        cost_.pause_ns = monotonic_ns() - (was_waiting ? stopped_ns : begin_ns);
        if (std::exchange(was_given_up_, false)) {
            last_doing_ = "waiting for a lock of its C library that another thread holds";
            return {};
        }
        return result;
    }

    [[nodiscard]] InjectFailure changed(const Error& error) const {
        return failure(error, explain_change(pid(), error));
    }

    [[nodiscard]] InjectFailure lost_hold(const Error& error) const {
        if (auto status = request_.target.check(); !status) {
            return changed(status.error());
        }
        return failure(error, "lost hold of " + describe_process(pid()) + "; try again");
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
            return tl::unexpected(call_failure(mapped));
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
                             : session.write_memory(request_.target.memory(), region,
                                                    {code.start, code.size_bytes});
        if (written) {
            written = session.write_memory(request_.target.memory(), data,
                                           std::as_bytes(std::span(&parameters, 1)));
        }
        if (!written) {
            return tl::unexpected(lost_hold(written.error()));
        }
        if (auto made = make_writable(session, context, way, data); !made) {
            return tl::unexpected(made.error());
        }
        const arch::Registers start = arch::make_stub_call(
            context.registers, region + code.start_offset, region + kRegionBytes, data,
            kRegionBytes - kStubCodeBytes, way.entry);
        if (auto status = session.run(start, request_.broadcast_signal); !status) {
            return tl::unexpected(lost_hold(status.error()));
        }
        return wait_for_spawn(session, region);
    }

    /// The stub makes its data writable itself, which saves a stop, but it has no place to say that
    /// this is refused. Where a limit stands in the way, it is seen here.
    tl::expected<void, InjectFailure> make_writable(PtraceSession& session,
                                                    const arch::ThreadContext& context,
                                                    const arch::WayBack& way, Address data) {
        rlimit limit{};
        if (prlimit(pid(), RLIMIT_DATA, nullptr, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY) {
            return {};
        }
        const auto made = call(session, context, way, SYS_mprotect,
                               {data.value(), kRegionBytes - kStubCodeBytes,
                                static_cast<std::uintptr_t>(PROT_READ | PROT_WRITE)});
        if (!made || *made != 0) {
            return tl::unexpected(call_failure(made));
        }
        return {};
    }

    tl::expected<Address, InjectFailure> wait_for_spawn(PtraceSession& session, Address region) {
        const ElfRange code{region, kStubCodeBytes};
        const std::int64_t since_ns = monotonic_ns();
        std::int64_t until_ns = since_ns + kGiveUpNs;
        for (;;) {
            if (auto status = await_spawn(session, region, until_ns); !status) {
                return tl::unexpected(status.error());
            }
            (void)session.interrupt(monotonic_ns() + kCallNs);
            if (read_spawn_state(region) != kSpawning || monotonic_ns() >= since_ns + kSpawnNs) {
                break;
            }
            // The lock's owner may wait, in the end, for what this thread was doing.
            const auto registers = session.read_registers();
            was_given_up_ =
                registers && request_.is_glibc && safe_point_.may_give_up_call(*registers, code);
            if (was_given_up_) {
                return tl::unexpected(
                    failure({ErrorKind::kSystem, ETIMEDOUT, "make a thread"}, ""));
            }
            (void)session.resume();
            until_ns = std::min(monotonic_ns() + kGiveUpNs, since_ns + kSpawnNs);
        }
        // The thread stands still: what it says now is final.
        switch (read_spawn_state(region)) {
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
                return tl::unexpected(InjectFailure{{ErrorKind::kSystem, cause, "make a thread"},
                                                    "could not make a thread in " +
                                                        describe_process(pid()) + ": " +
                                                        std::strerror(cause),
                                                    true});
            }
            default:
                // It runs, but gets no CPU, or it waits in the allocator or for a page, and for
                // nothing that this thread holds up: it will come out, and put itself back. The
                // helper finds nobody and ends.
                session.forget_context();
                session.detach();
                return tl::unexpected(failure({ErrorKind::kSystem, ETIMEDOUT, "make a thread"},
                                              "making a thread in " + describe_process(pid()) +
                                                  " takes too long; try again"));
        }
    }

    std::uint32_t read_spawn_state(Address region) {
        const auto read = request_.target.memory().read_value<std::uint32_t>(
            region + kStubCodeBytes + offsetof(StubParameters, spawn_state));
        return read ? *read : static_cast<std::uint32_t>(kSpawning);
    }

    /// Waits until the stub has made the helper or given up, at most until then.
    tl::expected<void, InjectFailure> await_spawn(PtraceSession& session, Address region,
                                                  std::int64_t until_ns) {
        while (read_spawn_state(region) == kSpawning && monotonic_ns() < until_ns) {
            if (auto status = session.poll_stop(); !status) {
                return tl::unexpected(lost_hold(status.error()));
            }
            if (session.state() == PtraceSession::State::kExecuted) {
                return tl::unexpected(lost_hold({ErrorKind::kSystem, ESRCH, "exec"}));
            }
            if (session.state() == PtraceSession::State::kFault) {
                return tl::unexpected(failure(
                    {ErrorKind::kInvalid, 0, "fault in the target"},
                    "could not make a thread in " + describe_process(pid()) + " (signal " +
                        std::to_string(session.fault_signal()) + "); it has been put back"));
            }
            if (session.is_stopped()) {
                // The C library's own signal, or a stop of the whole process, which takes effect
                // later.
                (void)session.resume();
            }
            nap();
        }
        return {};
    }

    static void nap() { sleep_ns(kNapNs); }

    [[nodiscard]] InjectFailure call_failure(const Result<long>& result) const {
        if (!result && result.error().system_errno == ESRCH) {
            return lost_hold(result.error());
        }
        const Error error = result
                                ? Error{ErrorKind::kSystem, static_cast<int>(-*result), kMapMemory}
                                : result.error();
        return {error,
                "could not map memory in " + describe_process(pid()) + ": " +
                    (result ? std::strerror(error.system_errno) : error.what),
                result.has_value()};
    }

    const SpawnRequest& request_;
    InjectCost& cost_;
    const std::int64_t deadline_ns_;
    MapLookup map_;
    Unwinder unwinder_;
    SeccompGate seccomp_;
    SafePoint safe_point_;
    const PromptTracer* tracer_ = nullptr;  // of the thread that runs
    std::string last_doing_;
    std::int64_t refused_since_ns_ = 0;  // no thread could be traced since then; 0: one could
    bool is_left_alone_ = false;
    bool was_given_up_ = false;
    bool is_stuck_ = false;  // a thread is traced that cannot be let go
};

}  // namespace

Result<std::vector<pid_t>> rank_threads(pid_t pid) {
    std::vector<std::pair<int, pid_t>> ranked;
    Error shortage{ErrorKind::kSystem, 0, "look at a thread"};
    const Status listed = for_each_thread(pid, [&](pid_t tid) {
        const auto info = read_thread_info(pid, tid);
        if (!info && is_shortage(info.error().system_errno)) {
            shortage.system_errno = info.error().system_errno;
            return false;
        }
        if (info && info->state != 'Z' && info->state != 'X' && info->state != 'D') {
            ranked.emplace_back(rank(pid, tid), tid);
        }
        return ranked.size() < kMaxRanked;
    });
    if (!listed && is_shortage(listed.error().system_errno)) {
        shortage = listed.error();
    }
    if (shortage.system_errno != 0) {
        return tl::unexpected(shortage);
    }
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
    auto map = MapLookup::open(request.target.pid());
    if (!map) {
        const Status status = request.target.check();
        return tl::unexpected(
            status ? failure(map.error(),
                             explain_refusal(request.target.pid(), map.error().system_errno))
                   : failure(status.error(), explain_change(request.target.pid(), status.error())));
    }
    Borrower borrower(request, cost, std::move(*map));
    Borrower::Outcome outcome;
    while (!outcome) {
        if (!run_as_tracer([&] { outcome = borrower.run(); })) {
            // No errno: those are the target's.
            return tl::unexpected(failure({ErrorKind::kNoSpace, 0, "make an own thread"},
                                          "cannot attach: echion may not make a thread of its own "
                                          "(see ulimit -u)"));
        }
    }
    return std::move(*outcome);
}

}  // namespace echion::inject
