#include "agent/stack_sampler.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"

namespace echion::agent {
namespace {

using cpython::GilState;
using stream::Counter;

// Frames of one round, before they are compared with the last ones.
constexpr std::size_t kMinRawFrames = std::size_t{1} << 16;
// Where the address space is limited: one part in so many of it, but one deep stack.
constexpr std::size_t kArenaShareOfLimit = 32;
constexpr std::size_t kLeastArenaBytes = std::size_t{1} << 20;
// After a CPU that it may not go to: one that has just gone offline, or that it is kept from.
constexpr std::int64_t kFollowAgainNs = 100'000'000;

}  // namespace

Status StackSampler::reserve() {
    auto batch = PageBatch::make(
        std::max(fit_address_space(kArenaBytes, kArenaShareOfLimit), kLeastArenaBytes));
    auto threads = ThreadTable::make(options_.max_frames);
    auto codes = CodeRegistry::make(view_);
    auto raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames + 2 * options_.max_frames);
    auto changed = FixedArray<TrackedThread*>::make(2 * cpython::kMaxThreadStates);
    auto selected = FixedArray<TrackedThread*>::make(2 * cpython::kMaxThreadStates);
    auto interpreters = FixedArray<Interpreter>::make(cpython::kMaxInterpreters);
    auto gils = FixedArray<Gil>::make(cpython::kMaxInterpreters);
    auto names = cpython::ThreadNames::make();
    auto snapshot_raw = FixedArray<cpython::RawFrame>::make(kMinRawFrames);
    auto ran = FixedArray<TrackedThread*>::make(cpython::kMaxThreadStates);
    auto unlisted = UnlistedThreads::make();
    auto listed = FixedArray<ListedState>::make(cpython::kMaxThreadStates);
    if (!names || !snapshot_raw || !ran || !unlisted || !listed || !batch || !threads || !codes ||
        !raw || !changed || !selected || !interpreters || !gils) {
        return fail(ErrorKind::kNoSpace, "reserve memory for the sampler");
    }
    batch_ = std::move(*batch);
    threads_ = std::move(*threads);
    codes_ = std::move(*codes);
    raw_ = std::move(*raw);
    changed_ = std::move(*changed);
    selected_ = std::move(*selected);
    interpreters_ = std::move(*interpreters);
    gils_ = std::move(*gils);
    names_ = std::move(*names);
    snapshot_raw_ = std::move(*snapshot_raw);
    ran_ = std::move(*ran);
    unlisted_ = std::move(*unlisted);
    listed_ = std::move(*listed);
    return {};
}

Status StackSampler::start(const cpython::RuntimeView& view, const SamplerOptions& options,
                           CpuWatch watch, const GuestFacts& facts, stream::RingProducer& ring,
                           const PythonStart& python_start) {
    view_ = view;
    options_ = options;
    watch_ = std::move(watch);
    if (auto status = reserve(); !status) {
        return status;
    }
    // The probe has to be memory that is not copied directly: this object's own.
    if (auto status = reader_.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(this)));
        !status) {
        return status;
    }
    static_from_ = view.runtime;
    static_bytes_ = facts.static_bytes_from(view.runtime);
    reader_.set_direct_range(static_from_, static_bytes_);
    codes_.set_static_range(static_from_, static_bytes_);
    same_cpu_.open(facts.thread_area_offset);
    can_follow_ = options_.follow && same_cpu_.has_cpu_numbers();
    native_id_offset_ = find_native_id_offset();
    python_starts_ = facts.python_starts;
    known_starts_ = python_starts_ != nullptr ? python_starts_->load() : 0;
    counts_from_birth_ = facts.is_launch;
    used_before_ns_ = facts.used_cpu_ns;
    unstarted_cpu_ns_ = facts.is_launch && options.cpu_mode ? python_start.main_cpu_ns : 0;
    io_tid_ = facts.io_tid;
    tick_interval_ns_ = static_cast<std::int64_t>(options.interval_ns);
    ring_ = &ring;
    encoder_.emplace(ring);
    now_ns_ = previous_ns_ = last_look_ns_ = python_start.after_ns;
    encoder_->begin_start(static_cast<std::uint64_t>(python_start.after_ns), view_.version.major,
                          view_.version.minor, view_.version.micro);
    define_unknown_code();
    if (!encoder_->commit()) {
        return fail(ErrorKind::kNoSpace, "the ring has no room for the start of the stream");
    }
    return {};
}

Status StackSampler::check_access() const {
    if (reader_.is_refused()) {
        return fail(ErrorKind::kRefused, ProcessReader::kRefused, EPERM);
    }
    if (options_.cpu_mode && !watch_.is_open() && read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) == 0) {
        return fail(ErrorKind::kRefused, "read CPU time: clock_gettime is refused", EPERM);
    }
    return {};
}

void StackSampler::use_kernel_ticks(std::int64_t interval_ns) {
    has_kernel_ticks_ = true;
    tick_interval_ns_ = interval_ns;
}

std::int64_t StackSampler::longest_gap_ns() const {
    return stream::longest_gap_ns(tick_interval_ns_);
}

void StackSampler::begin(std::int64_t at_ns) {
    at_ns = std::max(at_ns, previous_ns_);
    encoder_->begin_tick(static_cast<std::uint64_t>(at_ns - previous_ns_));
    part_since_ns_ = previous_ns_;
    previous_ns_ = at_ns;
}

/// Goes on in a tick of its own where the one that has begun is so old that others had the CPU
/// meanwhile: what is seen from now on did not have to be so when it began.
void StackSampler::continue_at(std::int64_t at_ns) {
    if (!options_.cpu_mode && at_ns - previous_ns_ > longest_gap_ns()) {
        commit();
        encoder_->continue_tick(static_cast<std::uint64_t>(at_ns - previous_ns_));
        part_since_ns_ = previous_ns_;
        previous_ns_ = at_ns;
    }
}

void StackSampler::finish() {
    has_ticked_ = true;
    last_look_ns_ = now_ns_;
    commit();
    publish_counts();
    ring_->count(Counter::kTicks);
    ring_->count(Counter::kSamplerTickNs, static_cast<std::uint64_t>(monotonic_ns() - now_ns_));
}

void StackSampler::tick(std::int64_t now_ns) {
    now_ns_ = now_ns;
    codes_.begin_tick();
    if (refused_ns_ && now_ns - *refused_ns_ >= kFollowAgainNs) {
        can_follow_ = true;
        refused_ns_.reset();
    }
    if (has_kernel_ticks_ && options_.cpu_mode && watch_.is_open() && is_alone()) {
        tick_for_events(now_ns);
        return;
    }
    // The first stacks are given an interval, as all others, of a start that was not long.
    if (const std::int64_t since_start_ns = now_ns - previous_ns_;
        !has_ticked_ && !options_.cpu_mode && since_start_ns > tick_interval_ns_ &&
        since_start_ns <= longest_gap_ns()) {
        begin(now_ns - tick_interval_ns_);
        commit();
    }
    begin(now_ns);
    if (watch_.is_open()) {
        look_at_cpus();
        keep_snapshots();
    }
    refresh_interpreters(now_ns);
    if (interpreter_count_ > 1) {
        look_at_lists();
    }
    for (std::uint32_t gil = 0; gil_count_ > 1 && gil < gil_count_; ++gil) {
        walk_changed_lists(gil);  // a thread can have states under several of them
    }
    for (std::uint32_t gil = 0; gil < gil_count_; ++gil) {
        sample_gil(gil, Marking::kByGil);
    }
    refresh_names();
    if (options_.cpu_mode) {
        write_all_cpu(is_stopping_);
    }
    ring_->count(Counter::kSamples, threads_.size());
    finish();
}

void StackSampler::stop(std::int64_t now_ns) {
    is_stopping_ = true;
    tick(now_ns);
    if (options_.cpu_mode && watch_.is_open()) {
        begin(now_ns);
        write_all_cpu(true);
        finish();
    }
    same_cpu_.release();
}

bool StackSampler::read_gil(Address gil, GilState* out) {
    const auto state = cpython::read_gil(reader_, view_, gil);
    if (!state) {
        ++tally_.read_failures;
        return false;
    }
    *out = *state;
    return true;
}

void StackSampler::mark(TrackedThread& thread) {
    if (!thread.may_have_changed && changed_count_ < changed_.capacity()) {
        thread.may_have_changed = true;
        changed_[changed_count_++] = &thread;
    }
}

void StackSampler::mark_all(std::uint32_t gil_index) {
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (thread.in_use && !thread.has_left &&
            interpreters_[thread.interpreter].gil == gil_index) {
            mark(thread);
        }
    }
}

bool StackSampler::is_shared(std::uint32_t gil_index) const {
    std::uint32_t count = 0;
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        count += interpreters_[i].gil == gil_index;
    }
    return count > 1;
}

/// A thread enters its number before it takes the GIL: see begin_apart(). `now` was read after the
/// state was found, which another thread had made that held the GIL: so it is not what an earlier
/// state in the same place has left there.
void StackSampler::note_holder(const Gil& gil, const GilState& now) {
    TrackedThread* thread = threads_.find(now.last_holder);
    if (thread == nullptr) {
        return;
    }
    if (!thread->has_begun && !thread->has_held_gil) {
        thread->has_held_gil = true;
        interpreters_[thread->interpreter].list_changed = true;
    }
    const bool has_taken_it = gil.is_known && gil.sampled.last_holder != now.last_holder;
    if (thread->has_begun && !thread->is_second && has_taken_it && can_change_threads(*thread) &&
        thread->slot != TrackedThread::kNoSlot && !thread->has_run) {
        displace(*thread);  // another thread has run with it
    }
}

void StackSampler::mark_changed(std::uint32_t gil_index, const GilState& now) {
    Gil& gil = gils_[gil_index];
    const std::uintptr_t switches = now.switch_number - gil.sampled.switch_number;
    // A thread goes from one interpreter to another without a switch: the state that it has left
    // would keep the stack that was seen last.
    if (!gil.is_known || switches > 1 || is_shared(gil_index)) {
        mark_all(gil_index);
    } else {
        for (const Address holder : {now.holder(), now.last_holder, gil.sampled.holder()}) {
            if (TrackedThread* thread = threads_.find(holder)) {
                mark(*thread);
            } else if (holder && (holder != gil.unknown_holder ||
                                  (now.locked > 0 && holder == now.holder()))) {
                // A thread that began since the lists were walked, or one that has ended.
                gil.unknown_holder = holder;
                for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
                    interpreters_[i].list_changed |= interpreters_[i].gil == gil_index;
                }
            }
        }
    }
    note_holder(gil, now);
    gil.sampled = now;
    gil.is_known = true;
    gil.held_ns = std::max(gil.held_ns, now_ns_);
}

std::span<TrackedThread*> StackSampler::select_changed(std::uint32_t gil_index) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < changed_count_; ++i) {
        TrackedThread* thread = changed_[i];
        if (!thread->in_use || !thread->may_have_changed || thread->has_left ||
            interpreters_[thread->interpreter].gil != gil_index) {
            continue;
        }
        // A state that any thread may run with can change without the one that it was placed on.
        if (thread->slot != TrackedThread::kNoSlot && !thread->has_run && !thread->must_resend &&
            !can_change_threads(*thread)) {
            thread->may_have_changed = false;  // it has not run: its stack is what it was
            continue;
        }
        selected_[count++] = thread;
    }
    return {selected_.data(), count};
}

void StackSampler::forget_processed() {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < changed_count_; ++i) {
        if (changed_[i]->in_use && changed_[i]->may_have_changed) {
            changed_[kept++] = changed_[i];
        }
    }
    changed_count_ = kept;
}

bool StackSampler::walk_changed_lists(std::uint32_t gil_index) {
    bool any = false;
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        if (interpreters_[i].gil == gil_index && interpreters_[i].list_changed) {
            walk_thread_list(i);
            any = true;
        }
    }
    return any;
}

void StackSampler::sample_gil(std::uint32_t gil_index, Marking marking) {
    walk_changed_lists(gil_index);
    gils_[gil_index].held_before_ns = gils_[gil_index].held_ns;
    // A round of reading can find that threads have come or gone; then there is another one.
    for (int round = 0; round < kAttempts; ++round) {
        if (marking == Marking::kMarkedOnly && changed_count_ == 0) {
            return;
        }
        GilState now;
        if (!read_gil(gils_[gil_index].address, &now)) {
            return;
        }
        if (marking == Marking::kByGil) {
            // Who held the GIL and gave it away before it was read has run before it is judged
            // whether it has: the GIL will not tell of it again.
            if (watch_.is_open() && now.switch_number != gils_[gil_index].sampled.switch_number) {
                watch_.look_again();
            }
            mark_changed(gil_index, now);
            if (walk_changed_lists(gil_index)) {
                continue;
            }
            note_running(now);
            has_switched_ = false;  // what is marked now is read below
            use_snapshots();
        }
        std::span<TrackedThread*> changed = select_changed(gil_index);
        Address last_holder = now.holder();
        while (!changed.empty()) {
            std::size_t read = 0;
            for (int attempt = 0; attempt < kAttempts && read == 0; ++attempt) {
                // The shorter a round, the better its chance that the GIL stays where it is.
                const std::size_t size = std::min(changed.size(), kGroup >> (2 * attempt));
                read = read_group(gil_index, changed.first(size), &last_holder,
                                  attempt == kAttempts - 1);
                if (must_pause_) {
                    pause();
                }
            }
            changed = changed.subspan(std::max<std::size_t>(read, 1));
        }
        if (!walk_changed_lists(gil_index) && !std::exchange(has_switched_, false)) {
            break;
        }
    }
    forget_processed();
}

}  // namespace echion::agent
