#pragma once

#include <cstddef>
#include <cstdint>

#include "base/mapping.h"
#include "memory/address.h"

namespace echion {

/// A fixed-capacity hash table from an address of the target to a small number: open addressing in
/// memory of its own, reserved once. The null address is no key.
class AddressMap {
  public:
    static constexpr std::uint32_t kNone = ~std::uint32_t{0};

    /// `capacity` is a power of two; up to three quarters of it are used.
    static Result<AddressMap> make(std::size_t capacity) {
        auto slots = FixedArray<Slot>::make(capacity);
        if (!slots) {
            return tl::unexpected(slots.error());
        }
        AddressMap map;
        map.slots_ = std::move(*slots);
        return map;
    }

    [[nodiscard]] std::uint32_t find(Address key) const {
        if (key.is_null()) {
            return kNone;  // what an empty slot has
        }
        const std::size_t mask = slots_.capacity() - 1;
        for (std::size_t i = home(key);; i = (i + 1) & mask) {
            const Slot& slot = slots_[i];
            if (slot.key == key.value()) {
                return slot.value;
            }
            if (slot.key == 0) {
                return kNone;
            }
        }
    }

    /// Adds or replaces. False when the table is full (also for a key that it holds), or the key is
    /// null.
    bool set(Address key, std::uint32_t value) {
        if (key.is_null() || 4 * (count_ + 1) > 3 * slots_.capacity()) {
            return false;
        }
        const std::size_t mask = slots_.capacity() - 1;
        std::size_t i = home(key);
        while (slots_[i].key != 0 && slots_[i].key != key.value()) {
            i = (i + 1) & mask;
        }
        count_ += slots_[i].key == 0;
        slots_[i] = {key.value(), value};
        return true;
    }

    void erase(Address key) {
        if (key.is_null()) {
            return;
        }
        const std::size_t mask = slots_.capacity() - 1;
        std::size_t hole = home(key);
        while (slots_[hole].key != key.value()) {
            if (slots_[hole].key == 0) {
                return;
            }
            hole = (hole + 1) & mask;
        }
        // Move up what lies behind the hole and would not be found past it.
        for (std::size_t i = (hole + 1) & mask; slots_[i].key != 0; i = (i + 1) & mask) {
            const std::size_t wanted = home(Address(slots_[i].key));
            if (((i - wanted) & mask) >= ((i - hole) & mask)) {
                slots_[hole] = slots_[i];
                hole = i;
            }
        }
        slots_[hole] = {};
        --count_;
    }

    void clear() {
        for (std::size_t i = 0; i < slots_.capacity() && count_ > 0; ++i) {
            count_ -= slots_[i].key != 0;
            slots_[i] = {};
        }
    }

    [[nodiscard]] std::size_t size() const { return count_; }

  private:
    struct Slot {
        std::uintptr_t key;
        std::uint32_t value;
    };

    [[nodiscard]] std::size_t home(Address key) const {
        // Fibonacci hashing; the low bits of an aligned address say nothing.
        const std::uint64_t mixed = (key.value() >> 4) * 0x9e3779b97f4a7c15ULL;
        return static_cast<std::size_t>(mixed >> 32) & (slots_.capacity() - 1);
    }

    FixedArray<Slot> slots_;
    std::size_t count_ = 0;
};

}  // namespace echion
