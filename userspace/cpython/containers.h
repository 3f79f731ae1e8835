#pragma once

#include <cstddef>
#include <span>

#include "base/error.h"
#include "base/function_ref.h"
#include "cpython/objects.h"
#include "memory/address.h"

namespace echion::cpython {

/// Calls `visit` with each object of a set, as it stands in memory, until that returns false. At
/// most `max_slots` slots of the table are looked at.
///
/// Errors: kUnreadable, kInvalid; kBoundExceeded when there are more slots (those before them have
/// been visited).
Status visit_set(ObjectReader& objects, Address set, std::size_t max_slots,
                 FunctionRef<bool(Address)> visit);

/// Where a walk over a set is, to go on from there: it begins anew when the set has got another
/// table meanwhile.
struct SetCursor {
    Address table;
    std::size_t slot = 0;
};
/// The same from `cursor` on, which is moved behind what has been visited.
Status visit_set(ObjectReader& objects, Address set, std::size_t max_slots, SetCursor& cursor,
                 FunctionRef<bool(Address)> visit);

/// The items of a tuple, as many as fit; returns how many it has. Errors: kUnreadable, kInvalid.
Result<std::size_t> read_tuple(ObjectReader& objects, Address tuple, std::span<Address> into);

/// Likewise of a list.
Result<std::size_t> read_list(ObjectReader& objects, Address list, std::span<Address> into);

}  // namespace echion::cpython
