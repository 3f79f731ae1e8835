#include "cpython/line_table.h"

#include <algorithm>
#include <limits>

namespace echion::cpython {

namespace {

/// Forward reader of a table; past the end it gives zeros and says so.
class Cursor {
  public:
    explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

    [[nodiscard]] bool at_end() const { return at_ >= bytes_.size(); }
    [[nodiscard]] std::size_t at() const { return at_; }
    /// Whether a read went past the end.
    [[nodiscard]] bool overran() const { return overran_; }

    std::uint8_t next() {
        if (at_end()) {
            overran_ = true;
            return 0;
        }
        return std::to_integer<std::uint8_t>(bytes_[at_++]);
    }

    std::int8_t next_signed() { return static_cast<std::int8_t>(next()); }

    /// Six bits a byte, the least significant first; 0x40 says that more follow. CPython writes at
    /// most six bytes (32 bits); what a longer chain has above bit 63 is dropped.
    std::uint64_t next_varint() {
        std::uint64_t value = 0;
        unsigned shift = 0;
        std::uint8_t byte = 0;
        do {
            byte = next();
            if (shift < 64) {
                value |= static_cast<std::uint64_t>(byte & 0x3fU) << shift;
            }
            shift += 6;
        } while ((byte & 0x40U) != 0);
        return value;
    }

    /// The sign in the lowest bit.
    std::int64_t next_signed_varint() {
        const std::uint64_t value = next_varint();
        const auto magnitude = static_cast<std::int64_t>(value >> 1U);
        return (value & 1U) != 0 ? -magnitude : magnitude;
    }

  private:
    std::span<const std::byte> bytes_;
    std::size_t at_ = 0;
    bool overran_ = false;
};

/// Sums of hostile deltas must not overflow: they are cut to a range that no sum of two leaves.
constexpr std::int64_t kSumLimit = std::int64_t{1} << 61;

std::int64_t add(std::int64_t sum, std::int64_t delta) {
    const auto cut = [](std::int64_t value) {
        return value > kSumLimit ? kSumLimit : (value < -kSumLimit ? -kSumLimit : value);
    };
    return cut(cut(sum) + cut(delta));
}

/// A line or column as it is reported: what cannot be one is unknown.
std::int32_t shown(std::int64_t value) {
    return value > 0 && value <= std::numeric_limits<std::int32_t>::max()
               ? static_cast<std::int32_t>(value)
               : 0;
}

SourcePosition only_line(std::int64_t line) { return {.line = shown(line)}; }

// Each of the following decodes one entry: moves `place` behind it, and gives the position of the
// instructions between the two. What it gives after the end of the bytes is of no use.

/// Pairs of (unsigned byte delta, signed line delta): the line changes after the byte delta.
SourcePosition parse_lnotab_entry(Cursor& table, LineTablePlace& place) {
    const SourcePosition found = only_line(place.line);
    place.range_end += table.next();
    place.line = add(place.line, table.next_signed());
    return found;
}

/// Pairs of (unsigned byte delta, signed line delta): a range of bytes and its line relative to the
/// last known one; -128 for a range without a line.
SourcePosition parse_linetable_entry(Cursor& table, LineTablePlace& place) {
    constexpr std::int8_t kNoLine = -128;
    place.range_end += table.next();
    const std::int8_t delta = table.next_signed();
    if (delta == kNoLine) {
        return {};
    }
    place.line = add(place.line, delta);
    return only_line(place.line);
}

/// Entries of a first byte 1cccclll (c: form, l: length in code units less one) and a body that
/// depends on the form. Each covers a range of code units; lines are relative to the entry before.
SourcePosition parse_location_entry(Cursor& table, LineTablePlace& place) {
    constexpr unsigned kLastShortForm = 9;
    constexpr unsigned kFirstOneLineForm = 10;
    constexpr unsigned kLastOneLineForm = 12;
    constexpr unsigned kNoColumnsForm = 13;
    constexpr unsigned kLongForm = 14;
    constexpr std::int64_t kCodeUnitBytes = 2;

    const std::uint8_t head = table.next();
    const unsigned form = (head >> 3U) & 0xfU;
    place.range_end += kCodeUnitBytes * ((head & 7U) + 1);

    std::int64_t& line = place.line;
    SourcePosition found;
    if (form <= kLastShortForm) {
        const std::uint8_t body = table.next();
        const unsigned column = (form << 3U) | ((body >> 4U) & 7U);
        found = {.line = shown(line),
                 .end_line = shown(line),
                 .column = shown(column + 1),
                 .end_column = shown(column + (body & 0xfU) + 1)};
    } else if (form <= kLastOneLineForm) {
        line = add(line, form - kFirstOneLineForm);
        const std::uint8_t column = table.next();
        const std::uint8_t end_column = table.next();
        found = {.line = shown(line),
                 .end_line = shown(line),
                 .column = column + 1,
                 .end_column = end_column + 1};
    } else if (form == kNoColumnsForm) {
        line = add(line, table.next_signed_varint());
        found = {.line = shown(line), .end_line = shown(line)};
    } else if (form == kLongForm) {
        line = add(line, table.next_signed_varint());
        // Columns are stored plus one, 0 for none: just as they are reported.
        const auto end_line_delta = static_cast<std::int64_t>(table.next_varint() & INT64_MAX);
        const auto column = static_cast<std::int64_t>(table.next_varint() & INT64_MAX);
        const auto end_column = static_cast<std::int64_t>(table.next_varint() & INT64_MAX);
        found = {.line = shown(line),
                 .end_line = shown(add(line, end_line_delta)),
                 .column = shown(column),
                 .end_column = shown(end_column)};
    }  // Form 15: no position at all.
    return found.line == 0 ? SourcePosition{} : found;
}

SourcePosition parse_entry(LineTableKind kind, Cursor& table, LineTablePlace& place) {
    switch (kind) {
        case LineTableKind::kLnotab:
            return parse_lnotab_entry(table, place);
        case LineTableKind::kLinetable:
            return parse_linetable_entry(table, place);
        case LineTableKind::kLocations:
            return parse_location_entry(table, place);
    }
    return {};
}

}  // namespace

bool search_line_table(LineTableKind kind, std::span<const std::byte> part, bool is_last,
                       std::int64_t offset, LineTablePlace& place, SourcePosition* found) {
    Cursor cursor(part);
    const std::uint64_t from = place.at;
    while (!cursor.at_end()) {
        LineTablePlace next = place;
        const SourcePosition position = parse_entry(kind, cursor, next);
        if (cursor.overran()) {
            break;
        }
        if (next.range_end > offset) {
            *found = position;
            return true;
        }
        place = next;
        place.at = from + cursor.at();
    }
    // Behind its last change an lnotab has the last line; the others have none there.
    *found = is_last && kind == LineTableKind::kLnotab ? only_line(place.line) : SourcePosition{};
    return is_last;
}

SourcePosition parse_line_table(LineTableKind kind, std::span<const std::byte> table,
                                std::int32_t first_line, std::int64_t offset) {
    if (offset < 0) {
        return only_line(first_line);
    }
    LineTablePlace place{.line = first_line};
    SourcePosition found;
    const bool is_whole = table.size() <= kMaxLineTableBytes;
    search_line_table(kind, is_whole ? table : table.first(kMaxLineTableBytes), is_whole, offset,
                      place, &found);
    return found;
}

}  // namespace echion::cpython
