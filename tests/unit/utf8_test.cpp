#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace echion {
namespace {

std::string encode(std::uint32_t code_point) {
    const EncodedCodePoint encoded = encode_utf8(code_point);
    return {encoded.bytes.data(), encoded.size_bytes};
}

TEST(Utf8, EveryScalarValueSurvivesTheRoundTrip) {
    for (std::uint32_t value = 0; value <= 0x10ffff; ++value) {
        if (value >= 0xd800 && value <= 0xdfff) {
            continue;
        }
        const std::string text = encode(value);
        const CodePoint decoded = decode_utf8(text);
        ASSERT_EQ(decoded.value, value);
        ASSERT_EQ(decoded.size_bytes, text.size());
        ASSERT_TRUE(decoded.is_well_formed());
    }
}

TEST(Utf8, WhatIsNoScalarValueIsReplaced) {
    for (const std::uint32_t value : {0xd800U, 0xdfffU, 0x110000U, 0xffffffffU}) {
        EXPECT_EQ(encode(value), kReplacementText);
    }
}

TEST(Utf8, AByteThatBelongsToNoCharacterStandsForItself) {
    for (const char* text : {"\x80", "\xc0\xaf", "\xc3", "\xc3(", "\xe0\x9f\x80", "\xed\xa0\x80",
                             "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf0\x9f\x98", "\xff"}) {
        const CodePoint decoded = decode_utf8(text);
        EXPECT_FALSE(decoded.is_well_formed());
        EXPECT_EQ(decoded.value, kReplacementCodePoint);
        EXPECT_EQ(decoded.size_bytes, 1U);
    }
}

TEST(Utf8, TakesOneCodePointAfterTheOther) {
    std::string_view text = "a\u00e9\U0001F434";
    EXPECT_EQ(take_code_point(text).value, 'a');
    EXPECT_EQ(take_code_point(text).value, 0xe9U);
    EXPECT_EQ(take_code_point(text).value, 0x1f434U);
    EXPECT_TRUE(text.empty());
}

TEST(Utf8, KnowsWhatMisleadsAReader) {
    for (const std::uint32_t value : {0x00U, 0x1bU, 0x7fU, 0x9bU, 0x61cU, 0x200bU, 0x200fU, 0x2028U,
                                      0x202eU, 0x2066U, 0xfeffU, 0xe0041U}) {
        EXPECT_TRUE(is_unprintable(value)) << std::hex << value;
    }
    // The zero-width joiner and non-joiner are part of ordinary text.
    for (const std::uint32_t value : {0x20U, 0xa0U, 0xe9U, 0x200cU, 0x200dU, 0xfffdU, 0x1f434U}) {
        EXPECT_FALSE(is_unprintable(value)) << std::hex << value;
    }
}

}  // namespace
}  // namespace echion
