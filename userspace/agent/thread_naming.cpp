// The part of StackSampler that finds the names of threads, and tells of threads by their names.

#include <cstring>

#include "agent/stack_sampler.h"

namespace echion::agent {
namespace {

// How often names are looked at again, and how many are read at most each time.
constexpr std::int64_t kNamesPeriodNs = 250'000'000;
constexpr std::size_t kNamesPerScan = 64;
// The same after a thread without a name has appeared.
constexpr std::int64_t kNamelessPeriodNs = 1'000'000;

std::size_t at(cpython::Offset offset) { return static_cast<std::size_t>(offset); }

}  // namespace

std::string_view StackSampler::find_name(const TrackedThread& thread) const {
    std::string_view name = names_.find(interpreters_[thread.interpreter].head.id, thread.runs_on);
    // `threading` of the interpreter that started it has the name, and perhaps no other one.
    for (std::uint32_t i = 0; i < interpreter_count_ && name.empty(); ++i) {
        name = names_.find(interpreters_[i].head.id, thread.runs_on);
    }
    return name;
}

/// Names go by pthread_t, which is another thread's as soon as the one that had it has ended:
/// whether that one still has a state of its own, after its name was read.
bool StackSampler::is_named_by_right(const TrackedThread& thread) {
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        const TrackedThread& one = threads_.slot(i);
        if (one.in_use && !one.has_left && one.runs_on == thread.runs_on &&
            one.head.thread_id == thread.runs_on && is_intact(one)) {
            return true;
        }
    }
    return false;
}

/// True if that is news.
bool StackSampler::note_name(TrackedThread& thread) {
    if (thread.has_left) {
        return false;
    }
    const std::string_view name = find_name(thread).substr(0, sizeof(thread.name));
    if (name.empty() || name == thread.name_view()) {
        return false;
    }
    if (!is_named_by_right(thread)) {
        interpreters_[thread.interpreter].list_changed = true;
        return false;
    }
    std::memcpy(thread.name, name.data(), name.size());
    thread.name_bytes = static_cast<std::uint32_t>(name.size());
    return true;
}

void StackSampler::announce(TrackedThread& thread) {
    bool is_news = note_name(thread);
    if (thread.name_bytes == 0 && !thread.is_announced && !thread.has_left) {
        scan_names();
        is_news = note_name(thread);
    }
    if (thread.name_bytes == 0) {
        // Not known to `threading`: the main thread before its import, or a thread from C, which
        // has no name (yet).
        nameless_scans_ = thread.is_announced ? nameless_scans_ : kNamelessScans;
        thread.name_looks = thread.is_announced ? thread.name_looks : kNamelessScans;
        const std::string_view name = thread.is_main ? "MainThread" : "";
        std::memcpy(thread.name, name.data(), name.size());
        thread.name_bytes = static_cast<std::uint32_t>(name.size());
        is_news = is_news || !name.empty();
    }
    if (thread.is_announced && !is_news) {
        return;
    }
    thread.is_announced = true;
    encoder_->thread(thread.id, interpreters_[thread.interpreter].head.id, thread.native_id,
                     thread.name_view());
}

void StackSampler::scan_names() {
    if (names_scanned_ns_ == now_ns_) {
        return;
    }
    names_scanned_ns_ = now_ns_;
    cpython::ObjectReader objects(reader_, *view_.layout);
    for (std::uint32_t i = 0; i < interpreter_count_; ++i) {
        const cpython::InterpreterHead& head = interpreters_[i].head;
        const auto modules =
            reader_.read_pointer(head.interpreter + at(view_.layout->interpreter.modules));
        if (modules && !modules->is_null()) {
            const auto scan = names_.scan(objects, head.id, *modules, kNamesPerScan);
            if (scan && !scan->is_complete) {
                nameless_scans_ = kNamelessScans;  // more have come than one scan reads
            }
        }
    }
}

void StackSampler::refresh_names() {
    // A thread is found some microseconds before it enters its name.
    const bool is_waiting = nameless_scans_ > 0;
    if (now_ns_ - names_scanned_ns_ < (is_waiting ? kNamelessPeriodNs : kNamesPeriodNs)) {
        return;
    }
    nameless_scans_ -= is_waiting;
    scan_names();
    for (std::size_t i = 0; i < threads_.slots(); ++i) {
        TrackedThread& thread = threads_.slot(i);
        if (!thread.in_use || thread.has_left || !thread.has_begun) {
            continue;
        }
        if (thread.is_announced) {
            announce(thread);  // says something only when the name has changed
        } else {
            note_name(thread);  // which it may not have any more when there is something to say
        }
    }
}

}  // namespace echion::agent
