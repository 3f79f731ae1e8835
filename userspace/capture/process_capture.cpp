#include "capture/process_capture.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>

#include "base/clock.h"
#include "capture/c_stack.h"
#include "platform/process_info.h"
#include "platform/thread_stat.h"

namespace echion::capture {
namespace {

using cpython::at;

constexpr std::int64_t kMomentNs = 50'000;
// The least that what runs with a frame object (3.8 to 3.10) refers to: its head and first places.
constexpr std::size_t kFrameObjectBytes = 512;

bool is_running(char kernel_state) { return kernel_state == 'R'; }

// FNV-1a, by words.
std::uint64_t hash_frames(std::span<const cpython::RawFrame> frames) {
    constexpr std::uint64_t kBasis = 0xcbf29ce484222325;
    constexpr std::uint64_t kPrime = 0x100000001b3;
    std::uint64_t hash = kBasis;
    for (const cpython::RawFrame& frame : frames) {
        hash = (hash ^ frame.code.value()) * kPrime;
        hash = (hash ^ static_cast<std::uint32_t>(frame.offset)) * kPrime;
    }
    return hash;
}

}  // namespace

Result<ProcessCapture> ProcessCapture::make(const cpython::RuntimeView& view,
                                            const Limits& limits) {
    auto ids = NativeIds::make();
    auto batch = PageBatch::make(kArenaBytes);
    auto pages = FixedArray<PageSet>::make(1);
    auto frames = FixedArray<cpython::RawFrame>::make(std::max(kFrames, limits.max_frames));
    auto frame_places = FixedArray<Address>::make(limits.tasks ? limits.max_frames : 1);
    auto threads = FixedArray<CapturedThread>::make(limits.max_threads);
    auto listed = FixedArray<cpython::ListedState>::make(limits.max_threads);
    auto scheduling = SchedulingWatch::make(limits.max_threads);
    auto interpreters = FixedArray<cpython::InterpreterHead>::make(cpython::kMaxInterpreters);
    auto thread_ids = FixedArray<std::uintptr_t>::make(limits.max_threads);
    if (!ids || !batch || !pages || !frames || !frame_places || !threads || !listed ||
        !scheduling || !interpreters || !thread_ids) {
        return fail(ErrorKind::kNoSpace, "reserve memory for stacks");
    }
    ProcessCapture capture;
    capture.view_ = view;
    capture.limits_ = limits;
    capture.ids_ = std::move(*ids);
    capture.batch_ = std::move(*batch);
    capture.pages_ = std::move(*pages);
    capture.frames_ = std::move(*frames);
    capture.frame_places_ = std::move(*frame_places);
    capture.threads_ = std::move(*threads);
    capture.listed_ = std::move(*listed);
    capture.scheduling_ = std::move(*scheduling);
    capture.interpreters_ = std::move(*interpreters);
    capture.thread_ids_ = std::move(*thread_ids);
    return capture;
}

Status ProcessCapture::list_threads(MemoryReader& reader, pid_t pid) {
    pid_ = pid;
    scheduling_.begin(pid);
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
    note_last_holders(reader);
    find_greenlets(reader);
    is_cut_ = is_cut_ || !status;
    return thread_count_ > 0 ? Status{} : status;
}

Status ProcessCapture::list_interpreter(MemoryReader& reader,
                                        const cpython::InterpreterHead& interpreter) {
    const std::size_t first = thread_count_;
    const auto head = cpython::read_threads_head(reader, view_, interpreter.interpreter);
    if (!head) {
        return tl::unexpected(head.error());
    }
    const cpython::ThreadList list =
        cpython::read_thread_list(reader, view_, interpreter.interpreter, *head,
                                  {listed_.data() + first, listed_.capacity() - first});
    // CPython puts new ones in front.
    for (std::size_t i = list.count; i-- > 0;) {
        const auto& [state, thread_head] = listed_[first + i];
        CapturedThread& thread = threads_[thread_count_++];
        thread = {};
        thread.state = state;
        thread.state_id = thread_head.id;
        thread.interpreter = interpreter.id;
        thread.gil = interpreter.gil;
        thread.thread_id = thread_head.thread_id;
        thread.native_id = thread_head.native_id;
        thread.is_main = thread.thread_id != 0 && thread.thread_id == main_thread_;
    }
    is_cut_ = is_cut_ || list.end == cpython::ListEnd::kFull;
    return list.end == cpython::ListEnd::kTorn
               ? fail(ErrorKind::kTorn, "the list of threads changes all the time")
               : Status{};
}

void ProcessCapture::find_native_ids(MemoryReader& reader) {
    find_missing_native_ids(reader);
    std::size_t count = 0;
    for (const CapturedThread& thread : threads()) {
        thread_ids_[count++] = thread.thread_id;
    }
    std::sort(thread_ids_.data(), thread_ids_.data() + count);
    for (CapturedThread& thread : threads()) {
        const auto [first, last] =
            std::equal_range(thread_ids_.data(), thread_ids_.data() + count, thread.thread_id);
        thread.shares_number = last - first > 1;
    }
    count = 0;
    for (const CapturedThread& thread : threads()) {
        if (thread.tid != 0) {
            thread_ids_[count++] = static_cast<std::uintptr_t>(thread.tid);
        }
    }
    std::sort(thread_ids_.data(), thread_ids_.data() + count);
    const auto* end = std::unique(thread_ids_.data(), thread_ids_.data() + count);
    has_unlisted_ = static_cast<std::size_t>(end - thread_ids_.data()) < ids_.size();
}

void ProcessCapture::find_missing_native_ids(MemoryReader& reader) {
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
    if (native_id_place_.witnesses < 2 && main_thread_ != 0) {
        native_id_place_ = ids_.find_place(reader, main_thread_, {thread_ids_.data(), count});
    }
    for (CapturedThread& thread : threads()) {
        if (thread.tid != 0 || thread.thread_id == 0 || native_id_place_.offset == 0) {
            continue;
        }
        const auto id =
            reader.read_value<std::uint32_t>(Address(thread.thread_id + native_id_place_.offset));
        const pid_t tid = id ? ids_.find(*id) : 0;
        if (tid != 0 || thread.native_id == 0) {
            thread.native_id = id ? *id : 0;
            thread.tid = tid;
        }
    }
}

void ProcessCapture::note_last_holders(MemoryReader& reader) {
    Address read;
    for (std::size_t i = 0; i < interpreter_count_; ++i) {
        const Address address = interpreters_[i].gil;
        if (address == read) {
            continue;  // up to 3.11 all share one
        }
        read = address;
        const auto gil = cpython::read_gil(reader, view_, address);
        if (!gil) {
            continue;
        }
        for (CapturedThread& thread : threads()) {
            thread.had_gil_last = thread.had_gil_last || thread.state == gil->holder();
        }
    }
}

std::size_t ProcessCapture::read_stacks(MemoryReader& reader, SameCpu& same_cpu, std::size_t from,
                                        FunctionRef<bool(const CapturedThread&)> wants) {
    frames_used_ = 0;
    tasks_.clear();
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

void ProcessCapture::find_greenlets(MemoryReader& reader) {
    greenlets_.begin();
    if (!limits_.tasks) {
        return;
    }
    for (const cpython::InterpreterHead& interpreter : interpreters()) {
        const auto modules =
            reader.read_pointer(interpreter.interpreter + at(view_.layout->interpreter.modules));
        if (modules && *modules) {
            greenlets_.find(reader, *view_.layout,
                            {view_.runtime, interpreter.interpreter, *modules});
        }
    }
}

void ProcessCapture::copy_tasks(MemoryReader& reader, const CapturedThread& thread, Copy* copy) {
    Address interpreter;
    for (const cpython::InterpreterHead& head : interpreters()) {
        if (head.id == thread.interpreter) {
            interpreter = head.interpreter;
        }
    }
    copy->tasks = {};
    copy->greenlets = {};
    const auto modules = reader.read_pointer(interpreter + at(view_.layout->interpreter.modules));
    if (!modules || !*modules) {
        return;
    }
    const std::size_t frame_count = copy->walk.count;
    copy->tasks =
        tasks_.read(reader, *view_.layout,
                    {interpreter, *modules, thread.state, {frame_places_.data(), frame_count}},
                    limits_.max_frames);
    copy->greenlets = greenlets_.read(reader, *view_.layout, {*modules, thread.state, frame_count},
                                      limits_.max_frames, tasks_);
}

bool ProcessCapture::copy_stack(MemoryReader& reader, const CapturedThread& thread,
                                unsigned attempt, bool with_tasks, Copy* copy) {
    cpython::StackRound round(view_, batch_);
    cpython::StackRound::Copies copies{};
    cpython::StackRound::Copies copies_after{};
    // The pages of the attempt before make this one shorter, if there is room for them all.
    const auto request = [&] {
        batch_.reset();
        round.begin(thread.gil);
        round.add(thread.state, cframe_, pages_[0], &copies);
        round.add_again(thread.state, cframe_, &copies_after);
        return round.end();
    };
    if (!request()) {
        pages_[0].clear();
        request();
    }
    batch_.run(reader);
    cpython::GilState gil_before;
    cpython::StackHead before = round.take(copies);
    cpython::StackHead after = round.take(copies_after);
    // Another thread's state in the same place?
    if (!round.take_gil(&gil_before, &copy->gil) || !before.is_read || !after.is_read ||
        before.thread.id != thread.state_id) {
        return false;
    }
    cframe_ = before.thread.cframe;
    bool was_cold = !before.has_frame || !after.has_frame;
    if (!round.complete(reader, &before)) {
        return false;
    }
    const std::uint64_t fetches = batch_.fetches();
    const std::size_t room = std::min(limits_.max_frames, frames_.capacity() - thread.first_frame);
    cpython::FrameWalker walker(*view_.layout, reader, batch_);
    const std::span<Address> places(frame_places_.data(), with_tasks ? room : 0);
    copy->walk = walker.walk(before.frame, pages_[0], attempt,
                             {frames_.data() + thread.first_frame, room}, places);
    if (with_tasks) {
        copy_tasks(reader, thread, copy);
        was_cold = true;
    }
    // What was read besides the round came after it: the evidence has to come after that.
    was_cold = was_cold || batch_.fetches() != fetches;
    if (was_cold) {
        const auto gil = cpython::read_gil(reader, view_, thread.gil);
        after = round.read(reader, thread.state);
        if (!gil || !after.is_read || !round.complete(reader, &after)) {
            return false;
        }
        copy->gil = *gil;
    }
    if (after.thread.id != thread.state_id) {
        return false;
    }
    // Without a GIL its rest proves nothing: each thread may run.
    copy->gil_stayed = !view_.layout->free_threaded && gil_before.holder() == copy->gil.holder() &&
                       gil_before.switch_number == copy->gil.switch_number;
    copy->head_stayed = before.frame == after.frame && before.thread.cframe == after.thread.cframe;
    const bool runs_python =
        view_.layout->free_threaded
            ? before.thread.is_attached
            : copy->gil_stayed && copy->gil.locked > 0 && copy->gil.holder() == thread.state;
    const bool leads_nowhere = (copy->walk.count == 0 || copy->walk.broken) && runs_python &&
                               copy->head_stayed && before.thread.has_cframe_on_stack(thread.state);
    copy->is_cut = copy->walk.ends_at_generator || (copy->walk.ends_midway && runs_python);
    copy->is_between = copy->is_cut || leads_nowhere;
    copy->newest = before.frame;
    copy->on_c_stack =
        before.thread.has_cframe_on_stack(thread.state) ? before.thread.cframe : copy->walk.entry;
    copy->hash = hash_frames({frames_.data() + thread.first_frame, copy->walk.count});
    return true;
}

void ProcessCapture::read_thread(MemoryReader& reader, SameCpu& same_cpu, CapturedThread& thread) {
    thread.has_tasks = false;
    thread.greenlet_count = 0;
    read_stack(reader, same_cpu, thread, false);
    if (!limits_.tasks || thread.is_gone ||
        frames_.capacity() - frames_used_ < limits_.max_frames) {
        return;
    }
    const bool has_loop =
        thread.frame_count != 0 && tasks_.has_loop(reader, *view_.layout, thread.state);
    // One that runs in C alone has no frames.
    if (!has_loop && !greenlets_.has_greenlets(reader, *view_.layout, thread.state)) {
        return;
    }
    const CapturedThread alone = thread;
    read_stack(reader, same_cpu, thread, true);
    if (thread.is_gone || thread.consistency <= alone.consistency) {
        thread.tasks_consistency = thread.consistency;
        return;
    }
    // The tasks are those of another moment.
    const CapturedThread together = thread;
    thread = alone;
    thread.has_tasks = together.has_tasks;
    thread.tasks_consistency = together.consistency;
    thread.are_tasks_cut = together.are_tasks_cut;
    thread.first_task = together.first_task;
    thread.task_count = together.task_count;
    thread.are_greenlets_cut = together.are_greenlets_cut;
    thread.first_greenlet = together.first_greenlet;
    thread.greenlet_count = together.greenlet_count;
}

void ProcessCapture::read_stack(MemoryReader& reader, SameCpu& same_cpu, CapturedThread& thread,
                                bool with_tasks) {
    const TaskCapture::Mark mark = tasks_.mark();
    const std::int64_t deadline_ns = monotonic_ns() + kTasksNs;
    thread.first_frame = frames_used_;
    thread.consistency = Consistency::kTorn;
    pages_[0].clear();
    cframe_ = Address();
    const auto index = static_cast<std::size_t>(&thread - threads_.data());
    scheduling_.forget(index);
    Copy copy;
    // It has or had the GIL, or there is none: only its own rest proves anything.
    bool may_have_run = view_.layout->free_threaded && thread.tid != 0;
    bool can_follow = limits_.follow;
    // Of the last copy that the thread whose number it bears did not run during.
    bool has_rested = false;
    ThreadRun rested_run{};
    std::uint64_t rested_hash = 0;
    for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
        const auto run_before =
            may_have_run ? read_thread_run(pid_, thread.tid) : Result<ThreadRun>();
        if (with_tasks) {
            if (attempt != 0 && monotonic_ns() > deadline_ns) {
                break;
            }
            tasks_.go_back(mark);
        }
        if (!copy_stack(reader, thread, attempt, with_tasks, &copy)) {
            thread.is_gone = true;
            return;
        }
        if (copy.is_between && attempt + 1 < kAttempts) {
            // An instruction later the chain is whole again.
            may_have_run = may_have_run || thread.tid != 0;
            const timespec moment = make_timespec(kMomentNs);
            clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
            continue;
        }
        if (copy.gil_stayed && copy.gil.holder() != thread.state) {
            thread.is_lent = thread.is_lent || is_seen_lent(reader, thread, copy);
            thread.consistency = Consistency::kProved;
            break;
        }
        if (!may_have_run && thread.tid != 0) {
            may_have_run = true;
            continue;
        }
        const auto stat = read_thread_stat(pid_, thread.tid);
        if (stat) {
            // Before it has to leave its CPU to us.
            scheduling_.look(index, thread, stat->state);
        }
        Runner runner = Runner::kMaker;
        if (stat && copy.gil.holder() == thread.state && !is_running(stat->state)) {
            runner = find_runner(reader, thread, copy);
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
            thread.is_lent = thread.is_lent || runner == Runner::kAnother;
            const bool is_same = has_rested && copy.hash == rested_hash;
            if (runner == Runner::kMaker || is_same) {
                thread.consistency = thread.is_lent ? Consistency::kLikely : Consistency::kProved;
                break;
            }
            thread.is_lent = thread.is_lent || (has_rested && rested_run == *run_after);
            has_rested = true;
            rested_run = *run_after;
            rested_hash = copy.hash;
            continue;
        }
        has_rested = false;
        if (is_elsewhere && (!can_follow || !same_cpu.move_to(stat->cpu))) {
            can_follow = false;
            if (copy.head_stayed) {
                thread.consistency = Consistency::kLikely;
                break;
            }
        }
    }
    if (thread.consistency == Consistency::kTorn && copy.head_stayed && !thread.is_lent) {
        thread.consistency = Consistency::kLikely;
    }
    if (thread.is_lent) {
        thread.lend();
    }
    thread.has_tasks = copy.tasks.has_loop;
    thread.first_task = copy.tasks.first_task;
    thread.task_count = copy.tasks.task_count;
    thread.are_tasks_cut = copy.tasks.is_cut;
    thread.first_greenlet = copy.greenlets.first;
    thread.greenlet_count = copy.greenlets.count;
    thread.are_greenlets_cut = copy.greenlets.is_cut;
    thread.frame_count = copy.walk.count;
    thread.is_truncated = copy.walk.truncated;
    thread.is_broken = copy.walk.broken || copy.is_cut;
    frames_used_ += thread.frame_count;
    describe_state(index, copy.gil);
    thread.is_gone = has_not_begun(thread);
}

ProcessCapture::Runner ProcessCapture::find_runner(MemoryReader& reader,
                                                   const CapturedThread& thread,
                                                   const Copy& copy) const {
    if (copy.walk.count == 0) {
        return Runner::kUnknown;
    }
    const auto stack = CStack::find(pid_, thread.tid, thread.thread_id, thread.is_main);
    if (!stack) {
        return Runner::kUnknown;
    }
    if (!copy.on_c_stack && cpython::has(view_.layout->frame.owner)) {
        return Runner::kUnknown;  // the walk was cut before it came to the C stack
    }
    // Who runs with a frame object keeps a pointer to it, or into it.
    const auto is_its = copy.on_c_stack ? std::optional<bool>(stack->has(copy.on_c_stack))
                                        : stack->refers_to(reader, copy.newest, kFrameObjectBytes);
    if (!is_its || (!*is_its && !may_be_lent(thread))) {
        return Runner::kUnknown;
    }
    return *is_its ? Runner::kMaker : Runner::kAnother;
}

bool ProcessCapture::is_seen_lent(MemoryReader& reader, const CapturedThread& thread,
                                  const Copy& copy) const {
    if (thread.tid == 0 || !may_be_lent(thread) ||
        find_runner(reader, thread, copy) != Runner::kAnother) {
        return false;
    }
    // Its maker has not returned meanwhile from what it had called with it.
    const auto gil = cpython::read_gil(reader, view_, thread.gil);
    return gil && gil->holder() == copy.gil.holder() &&
           gil->switch_number == copy.gil.switch_number;
}

bool ProcessCapture::may_be_lent(const CapturedThread& thread) const {
    return has_unlisted_ || thread.shares_number;
}

void ProcessCapture::describe_state(std::size_t index, const cpython::GilState& gil) {
    CapturedThread& thread = threads_[index];
    if (!view_.layout->free_threaded && gil.locked > 0 && gil.holder() == thread.state) {
        thread.gil_role = GilRole::kHolds;
    }
    if (thread.tid == 0) {
        return;
    }
    if (const auto stat = read_thread_stat(pid_, thread.tid)) {
        thread.kernel_state = stat->state;
        thread.cpu_ticks = stat->cpu_ticks;
        scheduling_.look(index, thread, stat->state);
    }
    if (thread.gil_role == GilRole::kUnknown && !is_running(thread.kernel_state) &&
        waits_for_gil(thread)) {
        thread.gil_role = GilRole::kWaits;
    }
}

bool ProcessCapture::waits_for_gil(const CapturedThread& thread) const {
    if (view_.layout->free_threaded) {
        return false;
    }
    // Behind its counters a struct _gil_runtime_state holds a condition variable and a mutex for
    // taking the GIL, and a pair for handing it on (CPython Include/internal/pycore_gil.h). Who is
    // blocked on any of these, wants the GIL.
    const auto word = read_awaited_word(pid_, thread.tid);
    if (!word) {
        return false;
    }
    const std::size_t size = at(view_.layout->gil.switch_number) + sizeof(unsigned long) +
                             2 * (sizeof(pthread_cond_t) + sizeof(pthread_mutex_t));
    return Address(*word) - thread.gil < size;
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

}  // namespace echion::capture
