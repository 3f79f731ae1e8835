#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpython/layout.h"

namespace echion::cpython {

/// Longest line table that is copied as a whole. CPython sets no bound; the longest one seen in a
/// standard library is below 64 KiB, but generated code has functions of any length: see LineIndex.
constexpr std::size_t kMaxLineTableBytes = std::size_t{1} << 20;

/// Where an instruction stands in the source. 0 means unknown: the version does not record it, or
/// the compiler left it out. Lines and columns count from 1; columns count bytes of UTF-8, and
/// `end_column` is the first column behind the expression.
struct SourcePosition {
    std::int32_t line = 0;
    std::int32_t end_line = 0;
    std::int32_t column = 0;
    std::int32_t end_column = 0;

    [[nodiscard]] bool operator==(const SourcePosition&) const = default;
};

/// Where a search in a line table stands: in front of an entry.
struct LineTablePlace {
    std::uint64_t at = 0;        ///< bytes in front of it
    std::int64_t range_end = 0;  ///< first instruction, in bytes, that the entries so far leave out
    std::int64_t line = 0;       ///< what the entry's line is relative to; at first co_firstlineno
};

/// Goes on with a search. `part`: the bytes of the table from `place.at` on, `is_last` if up to its
/// end. True when the search is over, and `found` its result; else `place` has moved to the first
/// entry that is not wholly in `part`, if there was a whole one.
bool search_line_table(LineTableKind kind, std::span<const std::byte> part, bool is_last,
                       std::int64_t offset, LineTablePlace& place, SourcePosition* found);

/// Decodes a line table far enough to place one instruction.
///
/// `table`: the bytes of co_lnotab or co_linetable; may be cut short, then instructions behind the
/// cut are unknown. `first_line`: co_firstlineno. `offset`: the instruction's distance from the
/// start of the code in bytes, in every version; negative (a frame that has not begun) gives the
/// first line.
///
/// Pure and total: any bytes give an answer, in time linear in their number. A position that does
/// not fit or is not above 0 comes out as unknown. Any thread, signal-safe.
///
/// Source: CPython Objects/lnotab_notes.txt (3.8-3.10), PEP 626, Objects/locations.md (3.11).
SourcePosition parse_line_table(LineTableKind kind, std::span<const std::byte> table,
                                std::int32_t first_line, std::int64_t offset);

}  // namespace echion::cpython
