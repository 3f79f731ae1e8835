#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/mapping.h"
#include "cpython/frame_walker.h"
#include "cpython/line_index.h"
#include "cpython/runtime_view.h"
#include "memory/address_map.h"
#include "memory/reader.h"

namespace echion::capture {

/// A frame in words. Texts are UTF-8.
struct SourceFrame {
    std::string_view function;  ///< qualified where the version has that; empty when unreadable
    std::string_view file;
    std::int32_t line = 0;  ///< 0 unknown
    /// CPython's own, between a call of a class and the __init__ that it enters (3.12 and later):
    /// not to be shown.
    bool is_trampoline = false;
};

/// Names code objects and places instructions in their source, each code object read once. What it
/// holds is good for as long as the target has not had the time to free a code object and to put
/// another one in its place: for one report. A longer one asks verify(), or clears it.
///
/// Memory is taken by make(). When it is full, the table starts over. One thread at a time.
class CodeTable {
  public:
    static Result<CodeTable> make(const cpython::RuntimeView& view);

    /// The frame in words; the texts are good until the next call that is not const. All fields are
    /// empty for what is no code object.
    SourceFrame describe(MemoryReader& reader, const cpython::RawFrame& frame);

    /// Reads the heads of the code objects of these frames again, as far as they are in the table,
    /// and drops those that have changed.
    void verify(MemoryReader& reader, std::span<const cpython::RawFrame> frames);

    void clear();

  private:
    // A text or table in the arena.
    struct Piece {
        std::uint32_t begin;
        std::uint32_t size_bytes;
    };
    // What tells two code objects in the same place apart, but for their texts.
    struct Identity {
        Address type, filename, name, qualname, linetable;
        std::int32_t first_line;

        bool operator==(const Identity&) const = default;
    };
    struct Entry {
        Identity identity;
        Piece function;
        Piece file;
        Piece table;
        Address long_table;  // first byte of a table that is not copied; null: it is in `table`
        std::uintptr_t long_bytes;
        bool is_trampoline;
    };

    static constexpr std::size_t kCapacity = 1U << 14;
    static constexpr std::size_t kEntries = kCapacity / 2;
    static constexpr std::size_t kArenaBytes = std::size_t{16} << 20;
    static constexpr std::size_t kFunctionBytes = 1024;
    static constexpr std::size_t kFileBytes = 4096;
    static constexpr std::size_t kTableBytes = cpython::kMaxLineTableBytes;
    // Tables above that, which are read in steps; of each, so much for one frame: 0.3 s at most.
    static constexpr std::size_t kLongTables = 2;
    static constexpr std::size_t kLongBytes = std::size_t{32} << 20;

    Entry* define(MemoryReader& reader, Address code);
    Result<Identity> read_identity(MemoryReader& reader, Address code) const;
    [[nodiscard]] Identity parse_identity(const std::byte* copy) const;
    Piece read_text(MemoryReader& reader, Address object, std::size_t limit);
    void read_table(MemoryReader& reader, Address object, Entry& entry);
    std::int32_t find_line(MemoryReader& reader, const Entry& entry, std::int32_t offset);
    [[nodiscard]] std::string_view text(const Piece& piece) const;

    cpython::RuntimeView view_;
    AddressMap index_;  // code object → index into entries_
    FixedArray<Entry> entries_;
    Reservation arena_;
    struct LongTable {
        cpython::LineIndex index;
        Address table;  // null: none
        std::uintptr_t size_bytes;
    };
    std::array<LongTable, kLongTables> long_tables_;
    std::size_t next_long_table_ = 0;
    FixedArray<std::byte> line_step_;
    std::uint32_t entry_count_ = 0;
    std::size_t used_ = 0;
};

}  // namespace echion::capture
