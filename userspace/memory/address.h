#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace echion {

/// A place in the target's memory. It cannot be dereferenced and does not convert to a pointer: the
/// only way to what it names is a MemoryReader. Same width as a pointer of this build, which is
/// also the target's (a 64-bit build reads 64-bit targets only).
class Address {
  public:
    constexpr Address() = default;
    constexpr explicit Address(std::uintptr_t value) : value_(value) {}

    [[nodiscard]] constexpr std::uintptr_t value() const { return value_; }
    [[nodiscard]] constexpr bool is_null() const { return value_ == 0; }
    [[nodiscard]] constexpr explicit operator bool() const { return value_ != 0; }
    /// Whether it is a multiple of `alignment`, a power of two.
    [[nodiscard]] constexpr bool is_aligned(std::size_t alignment) const {
        return (value_ & (alignment - 1)) == 0;
    }

    constexpr auto operator<=>(const Address&) const = default;
    friend constexpr Address operator+(Address base, std::size_t offset) {
        return Address(base.value_ + offset);
    }
    friend constexpr Address operator-(Address base, std::size_t offset) {
        return Address(base.value_ - offset);
    }
    /// Distance in bytes; wraps when `from` lies behind `to`.
    friend constexpr std::size_t operator-(Address to, Address from) {
        return to.value_ - from.value_;
    }

  private:
    std::uintptr_t value_ = 0;
};

}  // namespace echion
