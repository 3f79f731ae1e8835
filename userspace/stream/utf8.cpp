#include "stream/utf8.h"

#include "base/utf8.h"

namespace echion::stream {

std::string_view repair_utf8(std::string_view text, std::string& storage) {
    std::string_view rest = text;
    while (!rest.empty() && decode_utf8(rest).is_well_formed()) {
        (void)take_code_point(rest);
    }
    if (rest.empty()) {
        return text;
    }
    storage.assign(text.substr(0, text.size() - rest.size()));
    while (!rest.empty()) {
        const std::string_view before = rest;
        const CodePoint next = take_code_point(rest);
        storage += next.is_well_formed() ? before.substr(0, next.size_bytes) : kReplacementText;
    }
    return storage;
}

}  // namespace echion::stream
