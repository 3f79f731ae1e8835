#pragma once

#include <string>
#include <string_view>

namespace echion::stream {

/// The text itself if it is well-formed UTF-8 (Unicode, table 3-7), else a copy in `storage` in
/// which every byte that belongs to no character is U+FFFD. Names with lone surrogates, which
/// Python allows, arrive like that.
std::string_view repair_utf8(std::string_view text, std::string& storage);

}  // namespace echion::stream
