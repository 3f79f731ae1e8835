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

/// The items of a tuple, as many as fit; returns how many it has. Errors: kUnreadable, kInvalid.
Result<std::size_t> read_tuple(ObjectReader& objects, Address tuple, std::span<Address> into);

/// Likewise of a list.
Result<std::size_t> read_list(ObjectReader& objects, Address list, std::span<Address> into);

}  // namespace echion::cpython
