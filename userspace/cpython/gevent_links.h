#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/mapping.h"
#include "cpython/attributes.h"
#include "cpython/greenlets.h"
#include "cpython/objects.h"
#include "memory/address.h"

namespace echion::cpython {

/// Which greenlets wait for a greenlet of gevent's, or for one of its other objects, read
/// passively. What is waited for keeps a list of what to call, which leads to those that wait:
///
///     join(), get()           bound `switch` of the greenlet that waits
///     joinall(), [i]wait()    bound `switch` of a Waiter, which has the greenlet
///     AsyncResult, Event      another object with such a list
///     Group, Pool             bound `_discard`; the group has an event, a pool a semaphore, too
///     imap(), map()           bound `_on_result` of the greenlet that collects results, which has
///     a
///                             queue
///     Queue, Channel          deques of Waiters
///
/// gevent's types are compiled by Cython, which describes no fields. So an object's words are
/// looked through for pointers to objects of the types that its fields have. The types are told by
/// their names. Every walk is bounded. No allocation but reserve(); one thread at a time. Sources:
/// gevent src/gevent/{greenlet,_abstract_linkable,_waiter,queue,pool,_imap}.py, 20 to 26.
class GeventLinks {
  public:
    /// Takes its memory; before all else.
    Status reserve();
    /// Forgets what is known of types, as before a new look.
    void forget();

    /// Whether others can wait for objects of this type: those of gevent that are no greenlets.
    bool is_waitable_type(ObjectReader& objects, Address type);

    /// Calls `visit` with each greenlet that waits for `object`, until it returns false. False when
    /// not all links could be followed.
    bool visit_waiters(ObjectReader& objects, Greenlets& greenlets, Address object,
                       FunctionRef<bool(Address)> visit);

  private:
    enum class Kind : std::uint8_t { kOther, kWaiter, kLinkable, kQueue, kSpawnedLink };
    struct KnownType {
        Address type;
        Kind kind;
        bool is_heap;
        std::uint16_t size_bytes;
    };
    static constexpr std::size_t kKnownTypes = 1024;
    struct Search;

    KnownType find_type(ObjectReader& objects, Address type);
    KnownType find_type_of(ObjectReader& objects, Address object);
    void search_object(Search& search, Address object, int depth);
    bool search_queues(Search& search, Address greenlet, int depth);
    void search_items(Search& search, Address list, int depth);
    void search_deque(Search& search, Address deque, int depth);
    void search_link(Search& search, Address link, int depth);
    void search_self(Search& search, Address self, int depth);
    Address find_greenlet(Search& search, Address waiter, const KnownType& type);

    FixedArray<KnownType> known_types_;
    AttributeFinder links_{"_links"};
    AttributeFinder empty_event_{"_empty_event"};
    AttributeFinder semaphore_{"_semaphore"};
};

}  // namespace echion::cpython
