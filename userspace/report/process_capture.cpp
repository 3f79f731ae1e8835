#include "report/process_capture.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/thread_clock.h"
#include "platform/thread_stat.h"

namespace echion::report {
namespace {

using cpython::Offset;

constexpr std::size_t kMaxStateBytes = 1024;
constexpr std::size_t kMaxGilBytes = 256;
constexpr std::int64_t kMomentNs = 50'000;
// Between two looks at the threads whose state is 'R'.
constexpr std::int64_t kLookNs = 200'000;
constexpr int kVisits = 3;

std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

bool is_futex(long number) {
#ifdef SYS_futex_time64
    if (number == SYS_futex_time64) {
        return true;
    }
#endif
    return number == SYS_futex;
}

bool is_running(char kernel_state) { return kernel_state == 'R'; }

bool has_ended(char kernel_state) {
    return kernel_state == 'Z' || kernel_state == 'X' || kernel_state == 'x';
}

void pause(std::int64_t ns) {
    const timespec moment = make_timespec(ns);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
}

}  // namespace

Result<ProcessCapture> ProcessCapture::make(const cpython::RuntimeView& view,
                                            const Limits& limits) {
    if (at(view.layout->thread_state.size) > kMaxStateBytes ||
        at(view.layout->gil.size) > kMaxGilBytes) {
        return fail(ErrorKind::kBoundExceeded, "a thread state larger than expected");
    }
    auto ids = NativeIds::make();
    auto batch = PageBatch::make(kArenaBytes);
    auto pages = FixedArray<PageSet>::make(1);
    auto frames = FixedArray<cpython::RawFrame>::make(std::max(kFrames, limits.max_frames));
    auto threads = FixedArray<CapturedThread>::make(limits.max_threads);
    auto watches = FixedArray<RunWatch>::make(limits.max_threads);
    auto interpreters = FixedArray<cpython::InterpreterHead>::make(cpython::kMaxInterpreters);
    auto thread_ids = FixedArray<std::uintptr_t>::make(limits.max_threads);
    if (!ids || !batch || !pages || !frames || !threads || !watches || !interpreters ||
        !thread_ids) {
        return fail(ErrorKind::kNoSpace, "reserve memory for stacks");
    }
    ProcessCapture capture;
    capture.view_ = view;
    capture.limits_ = limits;
    capture.ids_ = std::move(*ids);
    capture.batch_ = std::move(*batch);
    capture.pages_ = std::move(*pages);
    capture.frames_ = std::move(*frames);
    capture.threads_ = std::move(*threads);
    capture.watches_ = std::move(*watches);
    capture.interpreters_ = std::move(*interpreters);
    capture.thread_ids_ = std::move(*thread_ids);
    return capture;
}

Status ProcessCapture::list_threads(MemoryReader& reader, pid_t pid) {
    pid_ = pid;
    lacks_counts_ = false;
    Status status = ids_.refresh(pid);
    if (!status) {
        return status;
    }
    if (const auto main = reader.read_value<std::uintptr_t>(
            view_.runtime + at(view_.layout->runtime.main_thread))) {
        main_thread_ = *main;
    }
    for (int attempt = 0; attempt < kListAttempts; ++attempt) {
        thread_count_ = 0;
        interpreter_count_ = 0;
        is_cut_ = false;
        const auto count = cpython::read_interpreters(
            reader, view_, {interpreters_.data(), interpreters_.capacity()});
        if (!count) {
            status = tl::unexpected(count.error());
            continue;
        }
        interpreter_count_ = *count;
        std::sort(interpreters_.data(), interpreters_.data() + interpreter_count_,
                  [](const auto& a, const auto& b) { return a.id < b.id; });
        status = {};
        for (std::size_t i = 0; i < interpreter_count_; ++i) {
            if (auto listed = list_interpreter(reader, interpreters_[i]); !listed) {
                status = listed;
            }
        }
        if (status) {
            break;
        }
    }
    find_native_ids(reader);
    is_cut_ = is_cut_ || !status;
    return thread_count_ > 0 ? Status{} : status;
}

Status ProcessCapture::list_interpreter(MemoryReader& reader,
                                        const cpython::InterpreterHead& interpreter) {
    const std::size_t first = thread_count_;
    Status status;
    auto state = cpython::read_threads_head(reader, view_, interpreter.interpreter);
    if (!state) {
        return tl::unexpected(state.error());
    }
    Address previous;
    while (*state) {
        const auto head = cpython::read_thread_head(reader, view_, *state);
        // The list changes while it is walked. That each refers back to the one before it, also
        // keeps the walk from going round in circles.
        if (!head || head->prev != previous || head->interpreter != interpreter.interpreter) {
            status = fail(ErrorKind::kTorn, "the list of threads changes all the time");
            break;
        }
        if (thread_count_ == threads_.capacity()) {
            is_cut_ = true;
            break;
        }
        CapturedThread& thread = threads_[thread_count_++];
        thread = {};
        thread.state = *state;
        thread.state_id = head->id;
        thread.interpreter = interpreter.id;
        thread.gil = interpreter.gil;
        thread.thread_id = head->thread_id;
        thread.native_id = head->native_id;
        thread.is_main = head->thread_id != 0 && head->thread_id == main_thread_;
        previous = *state;
        *state = head->next;
    }
    // CPython puts new ones in front.
    std::reverse(threads_.data() + first, threads_.data() + thread_count_);
    return status;
}

void ProcessCapture::find_native_ids(MemoryReader& reader) {
    bool is_missing = false;
    std::size_t count = 0;
    for (CapturedThread& thread : threads()) {
        thread.tid = ids_.find(thread.native_id);
        is_missing = is_missing || thread.tid == 0;
        if (thread.thread_id != 0) {
            thread_ids_[count++] = thread.thread_id;
        }
    }
    // 3.8-3.10 keep no number; the one that later versions keep is the parent's in the child of a
    // fork() by C code, which runs no PyOS_AfterFork_Child(). The C library has its own record.
    if (!is_missing) {
        return;
    }
    if (native_id_offset_ == 0 && main_thread_ != 0) {
        native_id_offset_ = ids_.find_offset(reader, main_thread_, {thread_ids_.data(), count});
    }
    for (CapturedThread& thread : threads()) {
        if (thread.tid != 0 || thread.thread_id == 0 || native_id_offset_ == 0) {
            continue;
        }
        const auto id =
            reader.read_value<std::uint32_t>(Address(thread.thread_id + native_id_offset_));
        const pid_t tid = id ? ids_.find(*id) : 0;
        if (tid != 0 || thread.native_id == 0) {
            thread.native_id = id ? *id : 0;
            thread.tid = tid;
        }
    }
}

std::size_t ProcessCapture::read_stacks(MemoryReader& reader, SameCpu& same_cpu, std::size_t from,
                                        FunctionRef<bool(const CapturedThread&)> wants) {
    frames_used_ = 0;
    std::size_t next = from;
    while (next < thread_count_ &&
           (next == from || frames_.capacity() - frames_used_ >= limits_.max_frames)) {
        CapturedThread& thread = threads_[next++];
        thread.is_skipped = !wants(thread);
        if (!thread.is_skipped) {
            read_thread(reader, same_cpu, thread);
        }
    }
    // Each has been looked at in its turn. Of those that were each seen with the same GIL, the last
    // one had it last.
    for (std::size_t i = next; i-- > from;) {
        if (threads_[i].gil_role != GilRole::kHolds) {
            continue;
        }
        for (std::size_t j = 0; j < i; ++j) {
            if (threads_[j].gil_role == GilRole::kHolds && threads_[j].gil == threads_[i].gil) {
                threads_[j].gil_role = GilRole::kUnknown;
            }
        }
    }
    return next;
}

bool ProcessCapture::read_head(MemoryReader& reader, const CapturedThread& thread, Head* head) {
    const cpython::Layout& layout = *view_.layout;
    std::array<std::byte, kMaxStateBytes> state;
    std::array<std::byte, kMaxGilBytes> gil;
    const ReadRequest requests[] = {{thread.state, state.data(), at(layout.thread_state.size)},
                                    {thread.gil, gil.data(), at(layout.gil.size)}};
    if (reader.read(requests) != std::size(requests)) {
        return false;
    }
    head->thread = cpython::parse_thread_head(layout, state.data());
    head->gil = cpython::parse_gil(layout, gil.data());
    head->frame = head->thread.frame;
    if (head->thread.cframe) {
        const auto frame =
            reader.read_pointer(head->thread.cframe + at(layout.cframe.current_frame));
        if (!frame) {
            return false;
        }
        head->frame = *frame;
    }
    // Another thread's state in the same place?
    return head->thread.id == thread.state_id;
}

bool ProcessCapture::copy_stack(MemoryReader& reader, const CapturedThread& thread,
                                unsigned attempt, Copy* copy) {
    Head before;
    Head after;
    if (!read_head(reader, thread, &before)) {
        return false;
    }
    batch_.reset();
    batch_.add_pages(pages_[0]);  // of the attempt before: makes this one shorter
    batch_.run(reader);
    const std::size_t room = std::min(limits_.max_frames, frames_.capacity() - thread.first_frame);
    cpython::FrameWalker walker(*view_.layout, reader, batch_);
    copy->walk =
        walker.walk(before.frame, pages_[0], attempt, {frames_.data() + thread.first_frame, room});
    if (!read_head(reader, thread, &after)) {
        return false;
    }
    copy->gil = after.gil;
    copy->gil_stayed = before.gil.last_holder == after.gil.last_holder &&
                       before.gil.switch_number == after.gil.switch_number;
    copy->head_stayed = before.frame == after.frame && before.thread.cframe == after.thread.cframe;
    return true;
}

void ProcessCapture::read_thread(MemoryReader& reader, SameCpu& same_cpu, CapturedThread& thread) {
    thread.first_frame = frames_used_;
    thread.consistency = Consistency::kTorn;
    pages_[0].clear();
    watch_of(thread).reset();
    Copy copy;
    bool may_have_run = false;  // it has or had the GIL, so that only its own rest proves anything
    bool can_follow = limits_.follow;
    for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
        const auto run_before =
            may_have_run ? read_thread_run(pid_, thread.tid) : Result<ThreadRun>();
        if (!copy_stack(reader, thread, attempt, &copy)) {
            thread.is_gone = true;
            return;
        }
        if (copy.walk.ends_at_generator && attempt + 1 < kAttempts) {
            // Between two frames: an instruction later the chain is whole again. See FrameWalker.
            pause(kMomentNs);
            continue;
        }
        if (copy.gil_stayed && copy.gil.last_holder != thread.state) {
            thread.consistency = Consistency::kProved;
            break;
        }
        if (!may_have_run && thread.tid != 0) {
            may_have_run = true;
            continue;
        }
        const auto stat = read_thread_stat(pid_, thread.tid);
        if (stat) {
            watch(thread, *stat);  // before the thread has to leave its CPU to us
        }
        const auto run_after = read_thread_run(pid_, thread.tid);
        if (!stat || !run_before || !run_after) {
            if (copy.head_stayed) {
                thread.consistency = Consistency::kLikely;
                break;
            }
            continue;
        }
        const bool is_elsewhere = is_running(stat->state) && stat->cpu != same_cpu.own_cpu();
        if (*run_before == *run_after && !is_elsewhere) {
            thread.consistency = Consistency::kProved;
            break;
        }
        if (is_elsewhere && (!can_follow || !same_cpu.move_to(stat->cpu))) {
            can_follow = false;
            if (copy.head_stayed) {
                thread.consistency = Consistency::kLikely;
                break;
            }
        }
    }
    if (thread.consistency == Consistency::kTorn && copy.head_stayed) {
        thread.consistency = Consistency::kLikely;
    }
    thread.frame_count = copy.walk.count;
    thread.is_truncated = copy.walk.truncated;
    thread.is_broken = copy.walk.broken || copy.walk.ends_at_generator;
    frames_used_ += thread.frame_count;
    describe_state(thread, copy.gil);
    thread.is_gone = has_not_begun(thread);
}

void ProcessCapture::describe_state(CapturedThread& thread, const cpython::GilState& gil) {
    if (gil.locked > 0 && gil.last_holder == thread.state) {
        thread.gil_role = GilRole::kHolds;
    }
    if (thread.tid == 0) {
        return;
    }
    if (const auto stat = read_thread_stat(pid_, thread.tid)) {
        thread.kernel_state = stat->state;
        thread.cpu_ticks = stat->cpu_ticks;
        watch(thread, *stat);
        if (!is_running(stat->state) && !has_ended(stat->state)) {
            thread.scheduling = Scheduling::kWaiting;
        }
    }
    if (thread.gil_role == GilRole::kUnknown && !is_running(thread.kernel_state) &&
        waits_for_gil(thread)) {
        thread.gil_role = GilRole::kWaits;
    }
}

Result<ThreadRun> ProcessCapture::read_counts(pid_t tid) const {
    if (pid_ != kOwnProcess) {
        return read_thread_run(pid_, tid);
    }
    ThreadRun run;
    run.run_ns = read_clock_ns(thread_cpu_clock(static_cast<std::uint32_t>(tid)));
    if (run.run_ns == 0) {
        return fail(ErrorKind::kNotReady, "no CPU clock of a thread");
    }
    return run;
}

void ProcessCapture::watch(const CapturedThread& thread, const ThreadStat& stat) {
    RunWatch& watch = watch_of(thread);
    if (!is_running(stat.state)) {
        watch.reset();
    } else if (const auto run = read_counts(thread.tid)) {
        watch.look(monotonic_ns(), *run);
    } else if (run.error().kind == ErrorKind::kNotReady) {
        lacks_counts_ = true;
    }
}

bool ProcessCapture::is_unsettled(const CapturedThread& thread) {
    return !thread.is_gone && !thread.is_skipped && is_running(thread.kernel_state) &&
           thread.scheduling == Scheduling::kUnknown && watch_of(thread).has_begun();
}

void ProcessCapture::look_again(CapturedThread& thread) {
    if (const auto run = read_counts(thread.tid)) {
        watch_of(thread).look(monotonic_ns(), *run);
    }
    thread.scheduling = watch_of(thread).verdict();
}

void ProcessCapture::settle_scheduling(SameCpu& same_cpu, std::size_t from, std::size_t end) {
    const auto count_unsettled = [&](FunctionRef<void(CapturedThread&)> visit_one) {
        std::size_t count = 0;
        for (CapturedThread& thread : threads().subspan(from, end - from)) {
            if (is_unsettled(thread)) {
                visit_one(thread);
                count += is_unsettled(thread);
            }
        }
        return count;
    };
    const auto look = [&](CapturedThread& thread) { look_again(thread); };
    std::size_t left = count_unsettled(look);
    if (left > 0 && pid_ == kOwnProcess) {
        pause(kLookNs);
        if (count_unsettled(look) > 0) {
            // Their clocks would have gone on, had they run.
            count_unsettled(
                [](CapturedThread& thread) { thread.scheduling = Scheduling::kRunnable; });
        }
        return;
    }
    const std::int64_t deadline_ns = monotonic_ns() + scheduler_tick_ns() * 3 / 2;
    while (left > 0 && monotonic_ns() < deadline_ns) {
        pause(kLookNs);
        left = count_unsettled(look);
    }
    if (left > 0) {
        count_unsettled([&](CapturedThread& thread) { visit(same_cpu, thread); });
    }
}

void ProcessCapture::visit(SameCpu& same_cpu, CapturedThread& thread) {
    for (int i = 0; i < kVisits; ++i) {
        const auto stat = read_thread_stat(pid_, thread.tid);
        if (!stat) {
            return;
        }
        if (stat->cpu == same_cpu.own_cpu()) {
            // It is not on this CPU, where we are. Had it left it for us, or come to it, since the
            // watch began, its counts would have changed.
            look_again(thread);
            if (thread.scheduling == Scheduling::kUnknown && is_running(stat->state)) {
                thread.scheduling = Scheduling::kRunnable;
            }
            return;
        }
        if (!limits_.follow || !same_cpu.move_to(stat->cpu)) {
            return;
        }
    }
}

bool ProcessCapture::waits_for_gil(const CapturedThread& thread) const {
    // Behind its counters a struct _gil_runtime_state holds a condition variable and a mutex for
    // taking the GIL, and a pair for handing it on (CPython Include/internal/pycore_gil.h). Who is
    // blocked on any of these, wants the GIL.
    const auto call = read_blocked_call(pid_, thread.tid);
    if (!call || !is_futex(call->number)) {
        return false;
    }
    const std::size_t size = at(view_.layout->gil.switch_number) + sizeof(unsigned long) +
                             2 * (sizeof(pthread_cond_t) + sizeof(pthread_mutex_t));
    return Address(call->arguments[0]) - thread.gil < size;
}

bool ProcessCapture::has_not_begun(const CapturedThread& thread) const {
    // Up to 3.11 the state of a thread that is being started names the thread that starts it; from
    // 3.12 on it names none.
    if (thread.frame_count != 0 || thread.is_broken) {
        return false;
    }
    if (thread.thread_id == 0) {
        return true;
    }
    for (const CapturedThread* other = threads_.data(); other != &thread; ++other) {
        if (other->thread_id == thread.thread_id && other->interpreter == thread.interpreter) {
            return true;
        }
    }
    return false;
}

}  // namespace echion::report
