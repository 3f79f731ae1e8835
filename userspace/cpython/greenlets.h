#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/mapping.h"
#include "cpython/frame_walker.h"
#include "cpython/objects.h"
#include "cpython/type_kinds.h"
#include "memory/address.h"

namespace echion::cpython {

enum class GreenletState : std::uint8_t {
    kNotStarted,
    kActive,  ///< it runs, or has switched to another one
    kFinished,
};

/// What a greenlet says of itself. Null: it has none.
struct Greenlet {
    Address type;
    Address parent;
    Address main;  ///< of its thread; from 2.0 on null while it has not started
    /// Of one that has switched to another: its newest frame object.
    Address top_frame;
    Address run;     ///< of one that has not started: what it is to call
    Address thread;  ///< of a main greenlet, from 2.0 on: greenlet's own ThreadState
    /// What shows which thread it belongs to: up to 1.1 the dict of the thread's state (of one that
    /// has started), later its stack of exceptions (of one that has switched to another).
    Address owner;
    // The part of its C stack that has been copied away, as another one uses the place.
    Address stack_start, stack_copy;
    std::size_t saved_bytes = 0;
    GreenletState state = GreenletState::kFinished;
    bool is_main = false;
};

/// The structures of the package greenlet, versions 1.0 to 3.5, read passively. Offsets are not
/// told by a version, but learnt from the process's own greenlets, which have to agree on them:
///
///     up to 1.1        PyGreenlet: stack_start, stack_stop, …, parent, run_info, top_frame, …
///     2.0 and later    PyGreenlet: weakreflist, dict, pimpl
///                                                     └─► vtable, [_self,] exception state,
///                          switch arguments, stack_start, stack_stop, …, context, top_frame, …
///                                UserGreenlet: [_self,] main_greenlet, run_callable, parent
///                                MainGreenlet: _self, thread_state ─► main_greenlet, current
///                  (from 3.1 on the base class has `_self`, and a UserGreenlet none of its own)
///
/// Every walk is bounded. It takes what stands in memory for what it is: that nothing changed
/// meanwhile is its caller's to prove. One thread at a time.
/// Sources: greenlet src/greenlet/greenlet.h, greenlet.c (1.x), greenlet_greenlet.hpp (2.x),
/// TGreenlet.hpp, TThreadState.hpp (3.x).
class Greenlets {
  public:
    /// How many learn() compares.
    static constexpr std::size_t kMaxSamples = 64;

    /// Takes its memory; before all else.
    Status reserve();
    /// Forgets all, as before another process's.
    void forget();

    /// Looks for the package in `modules` (sys.modules), for this look. kNotReady: it has not been
    /// imported.
    Status find(ObjectReader& objects, Address modules);

    /// Whether the objects of a type are greenlets. Without a read for types met before.
    bool is_greenlet_type(ObjectReader& objects, Address type);
    /// The same of an object.
    bool is_greenlet(ObjectReader& objects, Address object);
    /// Whether a greenlet is one with gevent's event loop.
    static bool is_hub(ObjectReader& objects, Address greenlet);

    /// Learns where the fields are, from `count` objects that are greenlets: get(0 … count - 1).
    /// One of them has to be a thread's main greenlet. kInvalid: more than a quarter of those that
    /// were looked at do not agree. Nothing is done where it is known already.
    Status learn(ObjectReader& objects, std::size_t count, FunctionRef<Address(std::size_t)> get);
    [[nodiscard]] bool has_learnt() const { return kind_ != Kind::kUnknown; }

    /// Errors: kUnreadable, kInvalid; kNotReady before learn().
    Result<Greenlet> read(ObjectReader& objects, Address greenlet);

    /// Whether the greenlet belongs to the thread with this state. Only one that has switched away
    /// can tell (up to 1.1, one that has started).
    bool is_of_thread(ObjectReader& objects, const Greenlet& greenlet, Address thread_state);
    /// The thread state that it would belong to, or (up to 1.1) that one's dict; null: unknown.
    Address find_owner(ObjectReader& objects, const Greenlet& greenlet);
    /// The same, as seen from the thread.
    Address find_owner_of_thread(ObjectReader& objects, Address thread_state);

    /// The greenlet that runs in the thread with this main greenlet; null: not told. Up to 1.1 it
    /// is the active one without a frame.
    Address find_current(ObjectReader& objects, Address main, const Greenlet& facts);
    /// Whether find_current() can tell.
    [[nodiscard]] bool knows_current() const { return kind_ == Kind::kImplementation; }

    struct Frames {
        std::size_t count = 0;   ///< newest first
        bool truncated = false;  ///< there were more than fit
        bool broken = false;     ///< the chain could not be followed to its end
    };
    /// The frames of one that has switched to another.
    Frames read_frames(ObjectReader& objects, const Greenlet& greenlet, std::span<RawFrame> out);

    /// What it knows of types, for this look.
    [[nodiscard]] TypeKinds& kinds() { return kinds_; }

  private:
    enum class Kind : std::uint8_t { kUnknown, kFlat, kImplementation };
    struct KnownType {
        Address type;
        bool is_greenlet;
    };
    static constexpr std::size_t kKnownTypes = 4096;
    // Of an implementation, up to and with `parent`.
    static constexpr std::size_t kMaxWords = 40;
    using Words = std::array<Address, kMaxWords>;

    bool read_words(ObjectReader& objects, Address from, std::span<Address> into);
    bool learn_implementation(ObjectReader& objects, std::size_t count,
                              FunctionRef<Address(std::size_t)> get);
    bool learn_tail(ObjectReader& objects, std::size_t count,
                    FunctionRef<Address(std::size_t)> get);
    bool learn_flat(ObjectReader& objects, std::size_t count,
                    FunctionRef<Address(std::size_t)> get);
    Address find_implementation(ObjectReader& objects, Address greenlet);
    Greenlet parse_flat(const Words& words) const;
    Greenlet parse_implementation(const Words& words) const;
    void forget_types();
    bool is_frame(ObjectReader& objects, Address object);
    Address translate(const Greenlet& greenlet, Address from, std::size_t size_bytes) const;

    TypeKinds kinds_;
    Address type_;
    std::size_t basic_size_ = 0;
    FixedArray<KnownType> known_types_;
    Kind kind_ = Kind::kUnknown;
    // In words, of a flat greenlet or of an implementation.
    std::size_t stack_at_ = 0;  // stack_start
    std::size_t top_frame_at_ = 0;
    std::size_t exc_info_at_ = 0;
    std::size_t tail_at_ = 0;  // what is behind the base class
    bool has_self_ = false;    // the base class
};

}  // namespace echion::cpython
