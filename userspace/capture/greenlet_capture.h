#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "capture/task_store.h"
#include "cpython/attributes.h"
#include "cpython/gc_objects.h"
#include "cpython/gevent_links.h"
#include "cpython/greenlets.h"
#include "cpython/layout.h"
#include "memory/address_map.h"
#include "memory/page_cache.h"
#include "memory/reader.h"

namespace echion::capture {

/// Reads the greenlets of threads. Suspended ones hang on nothing that leads to them all, but the
/// garbage collector knows each:
///
///     begin()
///     find() for each interpreter    walks over the collector's objects; proves nothing
///     read() for each thread         what it found of the thread's, as it is now
///
/// A greenlet is a thread's only if it says so itself, or one that goes on when it ends does
/// (Greenlets::is_of_thread()). What read() reads is as consistent as the caller proves it to be.
/// Memory is reserved when the first interpreter with greenlets is met, and taken as it is needed.
/// Nothing is read where the package has not been imported. One thread at a time.
class GreenletCapture {
  public:
    static constexpr std::size_t kMaxFound = std::size_t{1} << 14;
    /// Time for all interpreters' objects.
    static constexpr std::int64_t kMaxFindNs = 1'000'000'000;

    /// Forgets all that was found.
    void begin();

    /// Where an interpreter is.
    struct Interpreter {
        Address runtime;
        Address interpreter;
        Address modules;  ///< sys.modules
    };
    /// Finds its greenlets.
    void find(MemoryReader& reader, const cpython::Layout& layout, const Interpreter& place);

    /// What find() came to, of all interpreters.
    struct Found {
        bool is_there = false;       ///< the package has been imported somewhere
        bool is_whole = true;        ///< no greenlet has been missed that is known of
        std::size_t unreadable = 0;  ///< greenlets whose structures are not known
        /// Greenlets of which nothing shows the thread: they have not started, and nor has any
        /// other of theirs.
        std::size_t unplaced = 0;
    };
    [[nodiscard]] const Found& found() const { return found_facts_; }

    /// Whether a thread has greenlets, as far as they have been found.
    bool has_greenlets(MemoryReader& reader, const cpython::Layout& layout, Address state);

    struct Outcome {
        std::size_t first = 0;  ///< in the store
        std::size_t count = 0;
        bool is_cut = false;  ///< there was no room for some
    };
    /// Where a thread is.
    struct Place {
        Address modules;  ///< sys.modules
        Address state;    ///< PyThreadState
        std::size_t frame_count;
    };
    /// Reads the greenlets of a thread into `store`; none where it has but its main greenlet.
    /// `max_frames`: of one greenlet.
    Outcome read(MemoryReader& reader, const cpython::Layout& layout, const Place& place,
                 std::size_t max_frames, TaskStore& store);

  private:
    static constexpr std::size_t kMaxPages = 4096;
    static constexpr std::size_t kWalkPages = 1024;
    // Above a greenlet that has not started.
    static constexpr int kMaxParents = 64;

    struct Candidate {
        Address greenlet;
        Address owner;      // Greenlets::find_owner(), or null: unknown
        Address waits_for;  // the first object of gevent's that it is seen to wait for, or null
    };
    Status reserve();
    bool walk(MemoryReader& reader, cpython::ObjectReader& types, const Interpreter& place);
    void place_all(cpython::ObjectReader& objects, std::size_t first);
    Address find_owner_above(cpython::ObjectReader& objects, const cpython::Greenlet& facts);
    bool add_proved(cpython::ObjectReader& objects, const Place& place, TaskStore& store);
    bool add_others(cpython::ObjectReader& objects, const Place& place, TaskStore& store);
    bool is_above_known(cpython::ObjectReader& objects, const cpython::Greenlet& facts);
    bool add(Address greenlet, const cpython::Greenlet& facts, TaskStore& store);
    void find_running(cpython::ObjectReader& objects, TaskStore& store);
    void note_waits(cpython::ObjectReader& objects);
    bool read_waiters(cpython::ObjectReader& objects, TaskStore& store);
    void read_waits(cpython::ObjectReader& objects, TaskStore& store, std::size_t candidate);
    void describe(cpython::ObjectReader& objects, TaskStore& store, CapturedTask& task,
                  const cpython::Greenlet& facts);
    TextPiece keep_function(cpython::ObjectReader& objects, TaskStore& store, Address function);
    void read_frames(cpython::ObjectReader& objects, std::size_t frame_count,
                     std::size_t max_frames, TaskStore& store, CapturedTask& task,
                     const cpython::Greenlet& facts);

    bool is_reserved_ = false;
    cpython::Greenlets greenlets_;
    cpython::GeventLinks links_;
    cpython::AttributeFinder name_{"name"};
    cpython::AttributeFinder run_{"_run"};
    PageCache pages_;
    PageCache walk_pages_;
    AddressMap index_;   // of candidates; in read(): of the thread's, in the store
    AddressMap owners_;  // by main greenlet: the candidate that shows its thread
    ReservedArray<Candidate> candidates_;
    ReservedArray<Address> waitables_;        // of the interpreter that is being walked
    ReservedArray<cpython::Greenlet> facts_;  // of the thread that is being read
    std::size_t candidate_count_ = 0;
    std::size_t waitable_count_ = 0;
    std::size_t first_ = 0;  // of the thread that is being read, in the store
    Address main_;           // likewise: its main greenlet
    Found found_facts_;
    std::int64_t time_left_ns_ = 0;
};

}  // namespace echion::capture
