#include "cpython/thread_names.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace echion::cpython {

Result<ThreadNames> ThreadNames::make() {
    ThreadNames names;
    auto entries = FixedArray<Entry>::make(kMaxThreads);
    auto by_id = AddressMap::make(2 * kMaxThreads);
    auto by_thread = AddressMap::make(2 * kMaxThreads);
    if (!entries || !by_id || !by_thread) {
        return fail(ErrorKind::kNoSpace, "reserve memory for thread names");
    }
    names.entries_ = std::move(*entries);
    names.by_id_ = std::move(*by_id);
    names.by_thread_ = std::move(*by_thread);
    return names;
}

/// A pthread_t is the address of the thread's control block, so its low bits are free to tell
/// interpreters apart. Entries carry both numbers: where the keys of two meet all the same, the
/// second thread finds no room, and none gets the other's name.
Address ThreadNames::index_key(std::int64_t interpreter, std::uintptr_t thread_id) {
    return Address(thread_id + static_cast<std::uintptr_t>(interpreter));
}

std::uint32_t ThreadNames::find_slot(std::int64_t interpreter, std::uintptr_t thread_id) const {
    const Address key = index_key(interpreter, thread_id);
    const std::uint32_t slot = key.is_null() ? AddressMap::kNone : by_id_.find(key);
    if (slot == AddressMap::kNone) {
        return slot;
    }
    const Entry& entry = entries_[slot];
    return entry.interpreter == interpreter && entry.thread_id == thread_id ? slot
                                                                            : AddressMap::kNone;
}

std::string_view ThreadNames::find(std::int64_t interpreter, std::uintptr_t thread_id) const {
    const std::uint32_t slot = find_slot(interpreter, thread_id);
    if (slot == AddressMap::kNone) {
        return {};
    }
    return {entries_[slot].name, entries_[slot].name_bytes};
}

void ThreadNames::forget(std::int64_t interpreter, std::uintptr_t thread_id) {
    const std::uint32_t slot = find_slot(interpreter, thread_id);
    if (slot != AddressMap::kNone) {
        remove(slot);
    }
}

void ThreadNames::clear() {
    for (std::uint32_t slot = 0; slot < high_water_; ++slot) {
        if (entries_[slot].in_use) {
            remove(slot);
        }
    }
    high_water_ = 0;
    first_free_ = 0;
    turn_ = 0;
}

void ThreadNames::forget_interpreter(std::int64_t interpreter) {
    ++scan_;
    remove_unmet(interpreter);
}

void ThreadNames::remove(std::uint32_t slot) {
    Entry& entry = entries_[slot];
    by_id_.erase(index_key(entry.interpreter, entry.thread_id));
    by_thread_.erase(Address(entry.thread));
    entry.in_use = false;
    first_free_ = std::min(first_free_, slot);
    --size_;
}

void ThreadNames::remove_unmet(std::int64_t interpreter) {
    for (std::uint32_t slot = 0; slot < high_water_; ++slot) {
        const Entry& entry = entries_[slot];
        if (entry.in_use && entry.interpreter == interpreter && entry.scan != scan_) {
            remove(slot);
        }
    }
}

/// `threading._active`, or null where `threading` has not been imported (yet).
Result<Address> ThreadNames::find_active(ObjectReader& objects, Address modules) {
    auto threading = find_module(objects, modules, "threading", &module_hint_);
    if (!threading || threading->is_null()) {
        return threading;
    }
    return find_global(objects, *threading, "_active", &active_hint_);
}

Result<ThreadNames::Scan> ThreadNames::scan(ObjectReader& objects, std::int64_t interpreter,
                                            Address modules, std::size_t budget) {
    ++scan_;
    name_.forget();  // what was learnt of classes may have changed since the last scan
    auto address = find_active(objects, modules);
    if (!address) {
        return tl::unexpected(address.error());
    }
    Scan scan;
    if (address->is_null()) {
        remove_unmet(interpreter);
        scan.is_complete = true;
        return scan;
    }
    auto active = DictView::read(objects, *address);
    if (!active) {
        return tl::unexpected(active.error());
    }
    walk(objects, interpreter, *active, budget, scan);
    const bool has_met_all = scan.is_complete;
    read_again(objects, interpreter, budget - scan.read, scan);
    if (!has_met_all && scan.read == 0) {
        return scan;
    }
    auto after = DictView::read(objects, *address);
    // Only a table that has stood still says who is gone.
    if (has_met_all && after && after->used() == active->used() &&
        after->count() == active->count() && after->keys().address() == active->keys().address()) {
        remove_unmet(interpreter);
    }
    if (scan.read > 0) {
        drop_unproved(objects, interpreter, after ? &*after : nullptr, scan);
    }
    return scan;
}

/// A thread may leave `_active` between the copy of its entry and that of its name: by then another
/// one may have its key's place, or its Thread object's. Keeps of the names that have been read
/// those whose entries stand there still, and drops the others. `active`: null if it cannot be
/// read.
void ThreadNames::drop_unproved(ObjectReader& objects, std::int64_t interpreter,
                                const DictView* active, Scan& scan) {
    const std::uint32_t read_in = scan_++;
    if (active != nullptr) {
        visit(objects, *active, [&](const DictView::Entry& one) {
            if (const std::uint32_t slot = find_known(interpreter, one);
                slot != AddressMap::kNone) {
                entries_[slot].scan = scan_;
            }
        });
    }
    for (std::uint32_t slot = 0; slot < high_water_; ++slot) {
        const Entry& entry = entries_[slot];
        if (entry.in_use && entry.interpreter == interpreter && entry.read == read_in &&
            entry.scan != scan_) {
            remove(slot);
            scan.is_complete = false;
        }
    }
}

/// Calls `visit` for each thread of `_active`. False if that is not all.
bool ThreadNames::visit(ObjectReader& objects, const DictView& active,
                        FunctionRef<void(const DictView::Entry&)> visit) {
    std::array<DictView::Entry, kMaxDictEntriesPerRead> batch;
    const std::size_t count = std::min(active.count(), kMaxEntries);
    for (std::size_t from = 0; from < count; from += batch.size()) {
        auto read = active.read_entries(
            objects, from, std::span(batch).first(std::min(batch.size(), count - from)));
        if (!read) {
            return false;
        }
        for (const DictView::Entry& one : std::span(batch).first(*read)) {
            if (is_object_address(one.key) && is_object_address(one.value)) {  // not deleted
                visit(one);
            }
        }
    }
    return count == active.count();
}

/// The slot of the thread that has this entry, if it is known as it stands there.
std::uint32_t ThreadNames::find_known(std::int64_t interpreter,
                                      const DictView::Entry& entry) const {
    const std::uint32_t slot = by_thread_.find(entry.value);
    const bool is_known = slot != AddressMap::kNone && entries_[slot].key == entry.key.value() &&
                          entries_[slot].interpreter == interpreter;
    return is_known ? slot : AddressMap::kNone;
}

/// Goes through all of `_active`: threads that are known as they stand there cost nothing.
void ThreadNames::walk(ObjectReader& objects, std::int64_t interpreter, const DictView& active,
                       std::size_t budget, Scan& scan) {
    scan.is_complete = true;
    scan.is_complete &= visit(objects, active, [&](const DictView::Entry& one) {
        ++scan.threads;
        if (const std::uint32_t slot = find_known(interpreter, one); slot != AddressMap::kNone) {
            entries_[slot].scan = scan_;
        } else if (scan.read < budget) {
            ++scan.read;
            scan.is_complete &= learn(objects, interpreter, one);
        } else {
            scan.is_complete = false;
        }
    });
}

/// A free slot; there is one.
std::uint32_t ThreadNames::take_slot() {
    while (first_free_ < high_water_ && entries_[first_free_].in_use) {
        ++first_free_;
    }
    const std::uint32_t slot = first_free_++;
    high_water_ = std::max(high_water_, slot + 1);
    return slot;
}

/// Takes in one entry of `_active`. False if it could not be: it is looked at again next time.
bool ThreadNames::learn(ObjectReader& objects, std::int64_t interpreter,
                        const DictView::Entry& entry) {
    auto thread_id = objects.read_unsigned(entry.key);
    if (!thread_id || *thread_id == 0 || *thread_id > UINTPTR_MAX) {
        return false;
    }
    const auto id = static_cast<std::uintptr_t>(*thread_id);
    // Whoever was known under this number or by this object before is gone.
    if (const std::uint32_t slot = find_slot(interpreter, id); slot != AddressMap::kNone) {
        remove(slot);
    }
    if (const std::uint32_t slot = by_thread_.find(entry.value); slot != AddressMap::kNone) {
        remove(slot);
    }
    const Address key = index_key(interpreter, id);
    if (size_ == kMaxThreads || key.is_null() || by_id_.find(key) != AddressMap::kNone) {
        ++overflows_;
        return true;
    }
    const std::uint32_t slot = take_slot();
    Entry& is = entries_[slot];
    is.interpreter = interpreter;
    is.thread_id = id;
    is.key = entry.key.value();
    is.thread = entry.value.value();
    is.scan = scan_;
    is.read = scan_;
    is.name_bytes = 0;
    is.in_use = true;
    by_id_.set(key, slot);
    by_thread_.set(entry.value, slot);
    ++size_;
    read_name(objects, is);
    return true;
}

/// An attribute that cannot be read just now (its owner is being changed) leaves the name as it is;
/// the thread's turn comes again.
void ThreadNames::read_name(ObjectReader& objects, Entry& entry) {
    auto name = name_.find(objects, Address(entry.thread));
    if (!name || name->is_null()) {
        return;
    }
    std::array<char, kMaxNameBytes> room;
    auto text = objects.read_unicode(*name, room);
    if (text) {
        std::memcpy(entry.name, text->utf8.data(), text->utf8.size());
        entry.name_bytes = static_cast<std::uint16_t>(text->utf8.size());
    }
}

/// Known threads in turns. A Thread object may have been freed and another made in its place, with
/// an int in the place of its key: then the number differs, and the thread is learnt anew.
void ThreadNames::read_again(ObjectReader& objects, std::int64_t interpreter, std::size_t budget,
                             Scan& scan) {
    for (std::uint32_t looked = 0; looked < high_water_ && budget > 0; ++looked) {
        turn_ = turn_ + 1 < high_water_ ? turn_ + 1 : 0;
        Entry& entry = entries_[turn_];
        // Met by this scan, and known before it: what the walk has just learnt is fresh.
        if (!entry.in_use || entry.interpreter != interpreter || entry.scan != scan_ ||
            entry.read == scan_) {
            continue;
        }
        entry.read = scan_;
        --budget;
        ++scan.read;
        auto thread_id = objects.read_unsigned(Address(entry.key));
        if (!thread_id || *thread_id != entry.thread_id) {
            remove(turn_);
            scan.is_complete = false;
        } else {
            read_name(objects, entry);
        }
    }
}

}  // namespace echion::cpython
