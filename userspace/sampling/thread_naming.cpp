#include "sampling/thread_naming.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace echion::sampling {
namespace {

// How often names are looked at again, and how many are read at most each time.
constexpr std::int64_t kNamesPeriodNs = 250'000'000;
constexpr std::size_t kNamesPerScan = 64;
// The same after a thread without a name has appeared.
constexpr std::int64_t kNamelessPeriodNs = 1'000'000;

}  // namespace

Status ThreadNaming::reserve() {
    auto names = cpython::ThreadNames::make();
    if (!names) {
        return tl::unexpected(names.error());
    }
    names_ = std::move(*names);
    return {};
}

std::string_view ThreadNaming::find_name(const TrackedThread& thread) const {
    std::string_view name = names_.find(interpreters_.of(thread).head.id, thread.runs_on);
    // `threading` of the interpreter that started it has the name, and perhaps no other one.
    for (std::uint32_t i = 0; i < interpreters_.count() && name.empty(); ++i) {
        name = names_.find(interpreters_[i].head.id, thread.runs_on);
    }
    return name;
}

/// Names go by pthread_t, which is another thread's as soon as the one that had it has ended:
/// whether that one still has a state of its own, after its name was read.
bool ThreadNaming::is_named_by_right(const TrackedThread& thread) {
    for (const TrackedThread& one : threads_.with_state()) {
        if (one.runs_on == thread.runs_on && one.head.thread_id == thread.runs_on &&
            memory_.is_listed(one)) {
            return true;
        }
    }
    return false;
}

/// True if that is news.
bool ThreadNaming::note_name(TrackedThread& thread) {
    if (thread.has_left) {
        return false;
    }
    const std::string_view name = find_name(thread).substr(0, sizeof(thread.name));
    if (name.empty() || name == thread.name_view()) {
        return false;
    }
    if (!is_named_by_right(thread)) {
        interpreters_.of(thread).list_changed = true;
        return false;
    }
    std::memcpy(thread.name, name.data(), name.size());
    thread.name_bytes = static_cast<std::uint32_t>(name.size());
    return true;
}

/// Not known to `threading`: the main thread before its import, or a thread from C, which has no
/// name (yet). True if it gets one all the same.
bool ThreadNaming::do_without_name(TrackedThread& thread) {
    if (thread.name_bytes != 0) {
        return false;
    }
    if (!thread.is_announced) {
        nameless_scans_ = kNamelessScans;
        thread.name_looks = kNamelessScans;
    }
    const std::string_view name = thread.is_main ? "MainThread" : "";
    std::memcpy(thread.name, name.data(), name.size());
    thread.name_bytes = static_cast<std::uint32_t>(name.size());
    return !name.empty();
}

void ThreadNaming::introduce(TrackedThread& thread) {
    if (thread.is_announced) {
        return;
    }
    note_name(thread);
    if (thread.name_bytes == 0 && !thread.has_left) {
        scan();
        note_name(thread);
    }
    do_without_name(thread);
    writer_.announce(thread);
}

void ThreadNaming::name_at_last(TrackedThread& thread) {
    if (thread.is_announced && thread.name_bytes == 0) {
        scan();
        if (note_name(thread) || do_without_name(thread)) {
            writer_.announce(thread);
        }
    }
}

void ThreadNaming::expect_name(TrackedThread& thread) {
    if (thread.name_bytes == 0 && thread.name_looks > 0) {
        --thread.name_looks;
        nameless_scans_ = std::max(nameless_scans_, 1);
    }
}

void ThreadNaming::scan() {
    if (scanned_ns_ == ticks_.now_ns()) {
        return;
    }
    scanned_ns_ = ticks_.now_ns();
    cpython::ObjectReader objects(memory_.reader, memory_.layout());
    const auto modules_at = cpython::at(memory_.layout().interpreter.modules);
    for (std::uint32_t i = 0; i < interpreters_.count(); ++i) {
        const cpython::InterpreterHead& head = interpreters_[i].head;
        const auto modules = memory_.reader.read_pointer(head.interpreter + modules_at);
        if (modules && !modules->is_null()) {
            const auto scan = names_.scan(objects, head.id, *modules, kNamesPerScan);
            if (scan && !scan->is_complete) {
                nameless_scans_ = kNamelessScans;  // more have come than one scan reads
            }
        }
    }
}

void ThreadNaming::refresh() {
    // A thread is found some microseconds before it enters its name.
    const bool is_waiting = nameless_scans_ > 0;
    if (ticks_.now_ns() - scanned_ns_ < (is_waiting ? kNamelessPeriodNs : kNamesPeriodNs)) {
        return;
    }
    nameless_scans_ -= is_waiting;
    scan();
    for (TrackedThread& thread : threads_.with_state()) {
        if (!thread.has_begun) {
            continue;
        }
        // Also of one that is not announced: it may not have its name any more when it is.
        const bool is_news = note_name(thread);
        if (thread.is_announced && (is_news || do_without_name(thread))) {
            writer_.announce(thread);
        }
    }
}

}  // namespace echion::sampling
