#include "report/text_sink.h"

#include <algorithm>
#include <cstring>

#include "base/utf8.h"

namespace echion::report {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";

struct Range {
    std::uint32_t first;
    std::uint32_t last;
};

bool is_in(std::span<const Range> ranges, std::uint32_t code_point) {
    return std::any_of(ranges.begin(), ranges.end(), [code_point](const Range& range) {
        return code_point >= range.first && code_point <= range.last;
    });
}

// Combining marks and joiners of the more frequent scripts.
constexpr Range kZeroWidth[] = {
    {0x300, 0x36f},   {0x483, 0x489},     {0x591, 0x5bd},     {0x610, 0x61a},
    {0x64b, 0x65f},   {0x200c, 0x200d},   {0x20d0, 0x20f0},   {0xfe00, 0xfe0f},
    {0xfe20, 0xfe2f}, {0x1f3fb, 0x1f3ff}, {0xe0100, 0xe01ef},
};

// East Asian wide and full-width characters, and emoji.
constexpr Range kDoubleWidth[] = {
    {0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0x33ff},   {0x3400, 0x4dbf},
    {0x4e00, 0x9fff},   {0xa000, 0xa4cf},   {0xac00, 0xd7a3},   {0xf900, 0xfaff},
    {0xfe30, 0xfe6f},   {0xff00, 0xff60},   {0xffe0, 0xffe6},   {0x1f300, 0x1f64f},
    {0x1f680, 0x1f6ff}, {0x1f900, 0x1faff}, {0x20000, 0x3fffd},
};

}  // namespace

int column_width(std::uint32_t code_point) {
    if (code_point < 0x300) {
        return 1;
    }
    if (is_in(kZeroWidth, code_point)) {
        return 0;
    }
    return is_in(kDoubleWidth, code_point) ? 2 : 1;
}

void TextSink::flush() {
    if (used_ > 0) {
        flush_({buffer_.data(), used_});
        used_ = 0;
    }
}

void TextSink::put(char c) { put(std::string_view(&c, 1)); }

void TextSink::put(std::string_view text) {
    while (!text.empty()) {
        if (used_ == buffer_.size()) {
            flush();
        }
        const std::size_t part = std::min(text.size(), buffer_.size() - used_);
        std::memcpy(buffer_.data() + used_, text.data(), part);
        used_ += part;
        text.remove_prefix(part);
    }
}

void TextSink::put_number(std::int64_t value) {
    char digits[24];
    std::size_t at = sizeof(digits);
    auto rest = static_cast<std::uint64_t>(value);
    if (value < 0) {
        rest = ~rest + 1;
    }
    do {
        digits[--at] = static_cast<char>('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (value < 0) {
        digits[--at] = '-';
    }
    put(std::string_view(digits + at, sizeof(digits) - at));
}

void TextSink::put_escape(std::uint32_t code_point, bool json) {
    const int digits = json || code_point > 0xff ? (code_point > 0xffff ? 8 : 4) : 2;
    put('\\');
    put(digits == 2 ? 'x' : digits == 4 ? 'u' : 'U');
    for (int digit = digits - 1; digit >= 0; --digit) {
        put(kHexDigits[code_point >> (4 * digit) & 0xfU]);
    }
}

void TextSink::put_printable(std::string_view text) {
    while (!text.empty()) {
        const std::string_view before = text;
        const CodePoint next = take_code_point(text);
        if (is_unprintable(next.value)) {
            put_escape(next.value, false);
        } else {
            put(next.is_well_formed() ? before.substr(0, next.size_bytes) : kReplacementText);
        }
    }
}

void TextSink::put_json(std::string_view text) {
    put('"');
    while (!text.empty()) {
        const std::string_view before = text;
        const CodePoint next = take_code_point(text);
        if (next.value == '"' || next.value == '\\') {
            put('\\');
            put(static_cast<char>(next.value));
        } else if (next.value <= 0xffff && is_unprintable(next.value)) {
            put_escape(next.value, true);
        } else {
            put(next.is_well_formed() ? before.substr(0, next.size_bytes) : kReplacementText);
        }
    }
    put('"');
}

}  // namespace echion::report
