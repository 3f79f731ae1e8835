#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

/// Text in UTF-8 (Unicode, table 3-7). Pure; allocates nothing.
namespace echion {

/// U+FFFD, which stands for what is no character.
constexpr std::uint32_t kReplacementCodePoint = 0xfffd;
constexpr std::string_view kReplacementText = "\xef\xbf\xbd";

struct CodePoint {
    std::uint32_t value = kReplacementCodePoint;
    std::size_t size_bytes = 1;

    /// False for a byte that belongs to no character; its value is U+FFFD then.
    [[nodiscard]] bool is_well_formed() const {
        return value != kReplacementCodePoint || size_bytes == kReplacementText.size();
    }
};

/// What a text that is not empty begins with.
CodePoint decode_utf8(std::string_view text);
/// The same, taken off the text.
CodePoint take_code_point(std::string_view& text);

/// A code point as UTF-8, and how many bytes that takes. What is no Unicode scalar value (a
/// surrogate, a number beyond U+10FFFF) becomes U+FFFD.
struct EncodedCodePoint {
    std::array<char, 4> bytes{};
    std::size_t size_bytes = 0;
};
EncodedCodePoint encode_utf8(std::uint32_t code_point);

/// Whether a code point could play with a terminal or mislead a reader: control characters, line
/// and paragraph separators, marks of the direction of writing, the byte order mark, interlinear
/// marks and tags. Those are Unicode's categories Cc, Zl, Zp, and those of Cf that are not part of
/// ordinary text.
bool is_unprintable(std::uint32_t code_point);

}  // namespace echion
