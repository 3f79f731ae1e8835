#include "stream/utf8.h"

#include <cstddef>
#include <cstdint>

namespace echion::stream {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

/// Length of the well-formed sequence that starts at `at`, or 0.
std::size_t sequence_length(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t i) -> std::uint8_t {
        return i < text.size() ? static_cast<std::uint8_t>(text[i]) : 0;  // 0 continues nothing
    };
    const auto continues = [&](std::size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
    const std::uint8_t first = byte(at);
    const std::uint8_t second = byte(at + 1);
    if (first < 0x80) {
        return 1;
    }
    if (first >= 0xC2 && first <= 0xDF) {
        return continues(at + 1) ? 2 : 0;
    }
    if (first >= 0xE0 && first <= 0xEF) {
        const bool overlong = first == 0xE0 && second < 0xA0;
        const bool surrogate = first == 0xED && second > 0x9F;
        return continues(at + 1) && continues(at + 2) && !overlong && !surrogate ? 3 : 0;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        const bool overlong = first == 0xF0 && second < 0x90;
        const bool too_large = first == 0xF4 && second > 0x8F;
        return continues(at + 1) && continues(at + 2) && continues(at + 3) && !overlong &&
                       !too_large
                   ? 4
                   : 0;
    }
    return 0;
}

}  // namespace

std::string_view repair_utf8(std::string_view text, std::string& storage) {
    std::size_t at = 0;
    while (at < text.size()) {
        const std::size_t length = sequence_length(text, at);
        if (length == 0) {
            break;
        }
        at += length;
    }
    if (at == text.size()) {
        return text;
    }
    storage.assign(text.substr(0, at));
    while (at < text.size()) {
        const std::size_t length = sequence_length(text, at);
        if (length == 0) {
            storage += kReplacement;
            ++at;
        } else {
            storage.append(text, at, length);
            at += length;
        }
    }
    return storage;
}

}  // namespace echion::stream
