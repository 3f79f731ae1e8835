// The line table parsers on any bytes: u8 kind, i32 first line, i32 offset, then the table.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

#include "cpython/line_table.h"

namespace {

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

// The same search with the table in parts, each with one whole entry at least.
echion::cpython::SourcePosition find_in_parts(echion::cpython::LineTableKind kind,
                                              std::span<const std::byte> table,
                                              std::int32_t first_line, std::int64_t offset,
                                              std::size_t least_bytes) {
    echion::cpython::LineTablePlace place{.line = first_line};
    echion::cpython::SourcePosition found;
    std::size_t size = least_bytes;
    for (;;) {
        const auto rest = table.subspan(static_cast<std::size_t>(place.at));
        const bool is_last = rest.size() <= size;
        const std::uint64_t before = place.at;
        if (search_line_table(kind, is_last ? rest : rest.first(size), is_last, offset, place,
                              &found)) {
            return found;
        }
        require(place.at <= table.size());
        size = place.at == before ? 2 * size : least_bytes;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace echion::cpython;
    constexpr std::size_t kHeadBytes = 9;
    if (size < kHeadBytes) {
        return 0;
    }
    const auto kind = static_cast<LineTableKind>(data[0] % 3);
    std::int32_t first_line = 0;
    std::int32_t offset = 0;
    std::memcpy(&first_line, data + 1, sizeof(first_line));
    std::memcpy(&offset, data + 5, sizeof(offset));
    const auto table = std::as_bytes(std::span(data + kHeadBytes, size - kHeadBytes));
    for (const std::int64_t at : {std::int64_t{offset}, std::int64_t{0}, std::int64_t{200},
                                  std::int64_t{1} << 40, INT64_MAX, INT64_MIN}) {
        const SourcePosition found = parse_line_table(kind, table, first_line, at);
        require(found.line >= 0 && found.end_line >= 0);
        require(found.column >= 0 && found.end_column >= 0);
        require(found.line != 0 || found == SourcePosition{});
        require(at >= 0 || found.line == (first_line > 0 ? first_line : 0));
        require(kind == LineTableKind::kLocations || found.column == 0);
        require(parse_line_table(kind, table, first_line, at) == found);
        require(at < 0 || find_in_parts(kind, table, first_line, at, 1 + data[0]) == found);
    }
    return 0;
}
