#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/mapping.h"
#include "cpython/attributes.h"
#include "cpython/dicts.h"
#include "cpython/objects.h"
#include "memory/address.h"
#include "memory/address_map.h"

namespace echion::cpython {

/// Names of threads as Python's own `threading` keeps them, read passively:
///
///      sys.modules['threading'] . _active : {ident: Thread, ...}      Thread . _name
///
/// `_active` holds every thread that Python started or has asked for its current thread, however
/// long before. A thread that C code made and that never asked is not in it and has no name here.
///
/// Memory is taken once, by make(). One thread at a time.
/// Source: CPython Lib/threading.py, 3.8 to 3.15.
class ThreadNames {
  public:
    static constexpr std::size_t kMaxThreads = 4096;   // as many at once as anybody runs
    static constexpr std::size_t kMaxNameBytes = 256;  // longer ones are cut behind a code point
    static constexpr std::size_t kMaxEntries = 4 * kMaxThreads;  // of `_active`, holes included

    static Result<ThreadNames> make();

    /// What one scan came to.
    struct Scan {
        std::size_t threads = 0;   ///< in `_active`
        std::size_t read = 0;      ///< names read, new or again; at most the budget
        bool is_complete = false;  ///< no new thread has been left for the next scan
    };

    /// Walks one interpreter's threads: reads the names of those that are new, forgets those that
    /// are gone, and with what is left of the budget reads known ones again, in turns, so that a
    /// rename is seen. Each name costs four to six reads; beyond that a scan costs about fifteen,
    /// and two for every 128 threads.
    ///
    /// A scan works on a table that may change under it: what does not make sense is left out until
    /// the next scan, as is a thread that the table does not have as before when its name has been
    /// read. So a name is that of the thread which had the number when the scan began, or of one
    /// that has begun since. Errors: those of the readers, when not even the table can be read; the
    /// names stay. An interpreter that has not imported `threading` has no threads there: no error.
    Result<Scan> scan(ObjectReader& objects, std::int64_t interpreter, Address modules,
                      std::size_t budget);

    /// The name of a thread (`thread_id`: its pthread_t), or an empty one. Valid until the next
    /// call that is not const.
    [[nodiscard]] std::string_view find(std::int64_t interpreter, std::uintptr_t thread_id) const;

    /// Drops a name, to be read anew by the next scan. For a thread that has just appeared: its
    /// thread_id may have been another's a moment ago.
    void forget(std::int64_t interpreter, std::uintptr_t thread_id);

    /// Drops all names of an interpreter that has ended.
    void forget_interpreter(std::int64_t interpreter);

    /// Drops everything, as after a fork.
    void clear();

    [[nodiscard]] std::size_t size() const { return size_; }
    /// Threads that found no room, each scan counting them anew.
    [[nodiscard]] std::uint64_t overflows() const { return overflows_; }

  private:
    struct Entry {
        std::int64_t interpreter;
        std::uintptr_t thread_id;
        std::uintptr_t key;     // the int object in `_active`
        std::uintptr_t thread;  // the Thread object
        std::uint32_t scan;     // number of the last scan that met it
        std::uint32_t read;     // number of the last one that read its name
        std::uint16_t name_bytes;
        bool in_use;
        char name[kMaxNameBytes];
    };

    static Address index_key(std::int64_t interpreter, std::uintptr_t thread_id);
    [[nodiscard]] std::uint32_t find_slot(std::int64_t interpreter, std::uintptr_t thread_id) const;
    Result<Address> find_active(ObjectReader& objects, Address modules);
    void walk(ObjectReader& objects, std::int64_t interpreter, const DictView& active,
              std::size_t budget, Scan& scan);
    void drop_unproved(ObjectReader& objects, std::int64_t interpreter, const DictView* active,
                       Scan& scan);
    static bool visit(ObjectReader& objects, const DictView& active,
                      FunctionRef<void(const DictView::Entry&)> visit);
    [[nodiscard]] std::uint32_t find_known(std::int64_t interpreter,
                                           const DictView::Entry& entry) const;
    std::uint32_t take_slot();
    bool learn(ObjectReader& objects, std::int64_t interpreter, const DictView::Entry& entry);
    void read_again(ObjectReader& objects, std::int64_t interpreter, std::size_t budget,
                    Scan& scan);
    void read_name(ObjectReader& objects, Entry& entry);
    void remove(std::uint32_t slot);
    void remove_unmet(std::int64_t interpreter);

    FixedArray<Entry> entries_;
    AddressMap by_id_;      // index_key() -> slot
    AddressMap by_thread_;  // Thread object -> slot
    AttributeFinder name_{"_name"};
    FindHint module_hint_;
    FindHint active_hint_;
    std::size_t size_ = 0;
    std::uint32_t high_water_ = 0;  // slots that have been in use
    std::uint32_t first_free_ = 0;  // no slot before it is free
    std::uint32_t turn_ = 0;        // slot that is read again next
    std::uint32_t scan_ = 0;
    std::uint64_t overflows_ = 0;
};

}  // namespace echion::cpython
