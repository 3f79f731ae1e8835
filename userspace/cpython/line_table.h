#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpython/layout.h"

namespace echion::cpython {

/// Longest line table that is looked at. CPython sets no bound; the longest one seen in a standard
/// library is below 64 KiB. Callers that copy tables use it to size or refuse the copy.
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
