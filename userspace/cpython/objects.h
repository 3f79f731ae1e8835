#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "cpython/layout.h"
#include "memory/address.h"
#include "memory/reader.h"

namespace echion::cpython {

/// Bits of tp_flags that are part of CPython's stable ABI (Include/object.h), the same in every
/// version.
constexpr std::uintptr_t kTypeHeap = std::uintptr_t{1} << 9;
constexpr std::uintptr_t kTypeReady = std::uintptr_t{1} << 12;
constexpr std::uintptr_t kTypeLong = std::uintptr_t{1} << 24;
constexpr std::uintptr_t kTypeBytes = std::uintptr_t{1} << 27;
constexpr std::uintptr_t kTypeUnicode = std::uintptr_t{1} << 28;
constexpr std::uintptr_t kTypeDict = std::uintptr_t{1} << 29;

/// Lengths above this are taken for garbage: no name, table or dictionary that is read here comes
/// near it.
constexpr std::size_t kMaxObjectLength = std::size_t{1} << 30;

/// What a PyTypeObject says of its instances.
struct TypeFacts {
    Address type;
    std::uintptr_t flags = 0;
    std::intptr_t basic_size = 0;
    std::intptr_t dict_offset = 0;
};

/// What the head of a str says, checked for sense but not for its type.
struct UnicodeHead {
    Address type;
    Address data;            ///< of the first code point; null: in `data.any`, not in the copy
    std::size_t length = 0;  ///< in code points
    std::uint8_t kind = 0;   ///< bytes a code point: 1, 2 or 4
    bool ascii = false;
    bool compact = false;
};

/// Parses the head of the str at `object` from a local copy of at least layout.unicode.ascii_data
/// bytes. kInvalid when it cannot be a str that is ready for use. Pure.
Result<UnicodeHead> parse_unicode_head(const Layout& layout, Address object,
                                       std::span<const std::byte> copy);

/// Text in the caller's buffer.
struct Text {
    std::string_view utf8;
    bool truncated = false;  ///< did not fit; cut behind a whole code point
};

/// Bytes in the caller's buffer.
struct BytesCopy {
    std::span<const std::byte> bytes;
    bool truncated = false;  ///< did not fit
};

/// Reads single objects. It holds only what it has verified of types that live as long as the
/// process; all copies go into the caller's buffers. No call allocates, and each is bounded by the
/// size of its buffer. Nothing is taken on trust: a type is recognised by its flags, and every
/// length is checked. One thread at a time, like the MemoryReader below it.
///
/// Errors, of all calls: kUnreadable for memory that cannot be read, kInvalid for an object that is
/// not what it should be.
class ObjectReader {
  public:
    ObjectReader(MemoryReader& memory, const Layout& layout) : memory_(memory), layout_(layout) {}

    [[nodiscard]] MemoryReader& memory() { return memory_; }
    [[nodiscard]] const Layout& layout() const { return layout_; }

    /// Copies a str as UTF-8. What is not a Unicode scalar value (lone surrogates, garbage) becomes
    /// U+FFFD; a NUL stays. One read for a short string.
    Result<Text> read_unicode(Address object, std::span<char> into);

    /// Copies a bytes object, or as much as fits.
    Result<BytesCopy> read_bytes(Address object, std::span<std::byte> into);

    /// Reads an int from 0 to 2^64 - 1; kBoundExceeded outside.
    Result<std::uint64_t> read_unsigned(Address object);

    Result<Address> read_type_of(Address object);
    Result<TypeFacts> read_type(Address type);

    /// Succeeds if `type` is a subclass of the built-in type that has `flag` (kTypeUnicode, ...).
    /// Without a read for a static type that has been seen before.
    Status check_type(Address type, std::uintptr_t flag);

  private:
    struct StaticType {
        Address type;
        std::uintptr_t flags = 0;
    };

    MemoryReader& memory_;
    const Layout& layout_;
    std::array<StaticType, 4> static_types_{};  // str, dict, int, bytes in normal life
    std::size_t next_static_type_ = 0;
};

/// Whether an address can be that of an object: not null, and aligned as the allocator aligns.
inline bool is_object_address(Address address) {
    return !address.is_null() && address.is_aligned(sizeof(void*));
}

/// The word at an aligned address; null also where it cannot be read.
Address read_word(ObjectReader& objects, Address from);

/// The text of a C string, copied into the caller's buffer, up to its end or as much as fits. No
/// page is touched that it does not reach. Errors: kUnreadable.
Result<std::string_view> read_c_string(MemoryReader& memory, Address from, std::span<char> into);

/// Copies as many of the requests as can be read, each by itself; `copied[i]` says which.
/// Both spans have the same length.
void read_each(MemoryReader& memory, std::span<const ReadRequest> requests, std::span<bool> copied);

}  // namespace echion::cpython
