#include "cpython/containers.h"

#include <algorithm>
#include <array>
#include <bit>

namespace echion::cpython {
namespace {

// Slots that are copied at once.
constexpr std::size_t kSlots = 256;
constexpr std::size_t kMaxSlotBytes = 2 * sizeof(void*);

Result<std::size_t> read_items(ObjectReader& objects, Address items, std::intptr_t count,
                               std::span<Address> into) {
    if (count < 0 || static_cast<std::size_t>(count) > kMaxObjectLength) {
        return fail(ErrorKind::kInvalid, "read a sequence: no such length");
    }
    const std::size_t wanted = std::min(static_cast<std::size_t>(count), into.size());
    static_assert(sizeof(Address) == sizeof(void*));
    if (wanted != 0) {
        if (auto status = objects.memory().read_bytes(items, into.data(), wanted * sizeof(Address));
            !status) {
            return tl::unexpected(status.error());
        }
    }
    return static_cast<std::size_t>(count);
}

}  // namespace

Status visit_set(ObjectReader& objects, Address set, std::size_t max_slots,
                 FunctionRef<bool(Address)> visit) {
    SetCursor cursor;
    return visit_set(objects, set, max_slots, cursor, visit);
}

Status visit_set(ObjectReader& objects, Address set, std::size_t max_slots, SetCursor& cursor,
                 FunctionRef<bool(Address)> visit) {
    const SetLayout& fields = objects.layout().set;
    MemoryReader& memory = objects.memory();
    const auto mask = memory.read_value<std::intptr_t>(set + at(fields.mask));
    const auto table = memory.read_pointer(set + at(fields.table));
    if (!mask || !table) {
        return fail(ErrorKind::kUnreadable, "read a set");
    }
    const auto slots = static_cast<std::size_t>(*mask) + 1;
    if (*mask < 0 || !std::has_single_bit(slots) || slots > kMaxObjectLength ||
        !is_object_address(*table) || at(fields.entry_size) > kMaxSlotBytes) {
        return fail(ErrorKind::kInvalid, "read a set: its table");
    }
    std::array<std::byte, kSlots * kMaxSlotBytes> copy;
    const std::size_t entry_bytes = at(fields.entry_size);
    if (cursor.table != *table) {
        cursor = {*table, 0};
    }
    while (cursor.slot < std::min(slots, max_slots)) {
        const std::size_t from = cursor.slot;
        const std::size_t count = std::min({kSlots, slots - from, max_slots - from});
        if (auto status =
                memory.read_bytes(*table + from * entry_bytes, copy.data(), count * entry_bytes);
            !status) {
            return status;
        }
        for (std::size_t i = 0; i < count; ++i) {
            const Address key = load_address(copy.data(), i * entry_bytes + at(fields.entry_key));
            cursor.slot = from + i + 1;
            // Null: never used. Of a removed one, a static object of CPython's, as any other key
            // that is not what the caller looks for.
            if (key && !visit(key)) {
                return {};
            }
        }
    }
    return slots > max_slots ? fail(ErrorKind::kBoundExceeded, "read a set: it is too large")
                             : Status{};
}

Result<std::size_t> read_tuple(ObjectReader& objects, Address tuple, std::span<Address> into) {
    const auto count =
        objects.memory().read_value<std::intptr_t>(tuple + at(objects.layout().object.ob_size));
    if (!count) {
        return tl::unexpected(count.error());
    }
    return read_items(objects, tuple + at(objects.layout().tuple.items), *count, into);
}

Result<std::size_t> read_list(ObjectReader& objects, Address list, std::span<Address> into) {
    MemoryReader& memory = objects.memory();
    const auto count = memory.read_value<std::intptr_t>(list + at(objects.layout().object.ob_size));
    const auto items = memory.read_pointer(list + at(objects.layout().list.items));
    if (!count || !items) {
        return fail(ErrorKind::kUnreadable, "read a list");
    }
    return read_items(objects, *items, *count, into);
}

}  // namespace echion::cpython
