#include "base/utf8.h"

#include <algorithm>

namespace echion {
namespace {

struct Range {
    std::uint32_t first;
    std::uint32_t last;
};

constexpr Range kUnprintable[] = {
    {0x00, 0x1f},     {0x7f, 0x9f},     {0x61c, 0x61c},   {0x200b, 0x200b}, {0x200e, 0x200f},
    {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe007f},
};

bool is_surrogate(std::uint32_t value) { return value >= 0xd800 && value <= 0xdfff; }

}  // namespace

CodePoint decode_utf8(std::string_view text) {
    const auto byte = [&text](std::size_t i) -> std::uint32_t {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;  // 0 continues nothing
    };
    const auto is_tail = [&byte](std::size_t i) { return (byte(i) & 0xc0U) == 0x80; };
    const std::uint32_t lead = byte(0);
    if (lead < 0x80) {
        return {lead, 1};
    }
    if (lead >= 0xc2 && lead < 0xe0 && is_tail(1)) {
        return {(lead & 0x1fU) << 6 | (byte(1) & 0x3fU), 2};
    }
    if (lead >= 0xe0 && lead < 0xf0 && is_tail(1) && is_tail(2)) {
        const std::uint32_t value =
            (lead & 0xfU) << 12 | (byte(1) & 0x3fU) << 6 | (byte(2) & 0x3fU);
        return value >= 0x800 && !is_surrogate(value) ? CodePoint{value, 3} : CodePoint{};
    }
    if (lead >= 0xf0 && lead < 0xf5 && is_tail(1) && is_tail(2) && is_tail(3)) {
        const std::uint32_t value = (lead & 0x7U) << 18 | (byte(1) & 0x3fU) << 12 |
                                    (byte(2) & 0x3fU) << 6 | (byte(3) & 0x3fU);
        return value >= 0x10000 && value <= 0x10ffff ? CodePoint{value, 4} : CodePoint{};
    }
    return {};
}

CodePoint take_code_point(std::string_view& text) {
    const CodePoint taken = decode_utf8(text);
    text.remove_prefix(taken.size_bytes);
    return taken;
}

EncodedCodePoint encode_utf8(std::uint32_t code_point) {
    if (is_surrogate(code_point) || code_point > 0x10ffff) {
        code_point = kReplacementCodePoint;
    }
    const auto lead = [code_point](std::uint32_t mark, unsigned shift) {
        return static_cast<char>(mark | code_point >> shift);
    };
    const auto tail = [code_point](unsigned shift) {
        return static_cast<char>(0x80U | (code_point >> shift & 0x3fU));
    };
    if (code_point < 0x80) {
        return {{static_cast<char>(code_point)}, 1};
    }
    if (code_point < 0x800) {
        return {{lead(0xc0, 6), tail(0)}, 2};
    }
    if (code_point < 0x10000) {
        return {{lead(0xe0, 12), tail(6), tail(0)}, 3};
    }
    return {{lead(0xf0, 18), tail(12), tail(6), tail(0)}, 4};
}

bool is_unprintable(std::uint32_t code_point) {
    return std::any_of(std::begin(kUnprintable), std::end(kUnprintable), [&](const Range& range) {
        return code_point >= range.first && code_point <= range.last;
    });
}

}  // namespace echion
