#include "output/text.h"

#include <cstdint>

namespace echion::output {
namespace {

constexpr std::string_view kFullWidthSemicolon = "\uFF1B";
constexpr std::string_view kFullWidthColon = "\uFF1A";
constexpr std::string_view kFullWidthSlash = "\uFF0F";
constexpr std::string_view kDeletePicture = "\u2421";
constexpr std::string_view kUnknown = "<unknown>";
constexpr std::string_view kReplacement = "\uFFFD";

/// Bytes of the line break, control character or mark of direction beyond ASCII at the start of
/// `text`: U+0080..U+009F, U+2028..U+202E, U+2066..U+2069; 0 if it is something else.
std::size_t foreign_control_length(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
    if (text.size() >= 2 && byte(0) == 0xC2 && byte(1) >= 0x80 && byte(1) <= 0x9F) {
        return 2;
    }
    if (text.size() < 3 || byte(0) != 0xE2) {
        return 0;
    }
    const bool is_break_or_turn = byte(1) == 0x80 && byte(2) >= 0xA8 && byte(2) <= 0xAE;
    const bool is_isolate = byte(1) == 0x81 && byte(2) >= 0xA6 && byte(2) <= 0xA9;
    return is_break_or_turn || is_isolate ? 3 : 0;
}

enum class NameKind { kName, kFile };

bool needs_care(char c, NameKind kind) {
    const auto byte = static_cast<std::uint8_t>(c);
    return byte < 0x20 || c == ';' || c == '/' || (kind == NameKind::kName && c == ':') ||
           byte == 0x7F || byte == 0xC2 || byte == 0xE2;
}

/// Whether what begins at `at` would be a word by itself to who splits at spaces and colons.
bool begins_word(std::string_view name, std::size_t at, NameKind kind) {
    return at == 0 ? kind == NameKind::kName : name[at - 1] == ' ' || name[at - 1] == ':';
}

void append_clean(std::string& line, std::string_view name, NameKind kind) {
    std::size_t plain = 0;  // start of what has not been appended yet
    for (std::size_t at = 0; at < name.size();) {
        if (!needs_care(name[at], kind)) {
            ++at;
            continue;
        }
        const auto byte = static_cast<std::uint8_t>(name[at]);
        std::size_t length = 1;
        char picture[] = "\u2400";  // of the control character 0; the others follow it
        std::string_view instead;
        if (byte < 0x20) {
            picture[2] = static_cast<char>(static_cast<std::uint8_t>(picture[2]) + byte);
            instead = picture;
        } else if (byte == ';') {
            instead = kFullWidthSemicolon;
        } else if (byte == ':') {
            instead = kFullWidthColon;
        } else if (byte == '/') {
            if (!begins_word(name, at, kind)) {
                ++at;
                continue;
            }
            instead = kFullWidthSlash;
        } else if (byte == 0x7F) {
            instead = kDeletePicture;
        } else {
            length = foreign_control_length(name.substr(at));
            if (length == 0) {
                ++at;
                continue;
            }
            instead = kReplacement;
        }
        line.append(name, plain, at - plain);
        line.append(instead);
        at += length;
        plain = at;
    }
    line.append(name, plain);
}

}  // namespace

void append_name(std::string& line, std::string_view name) {
    append_clean(line, name, NameKind::kName);
}

void append_file_name(std::string& line, std::string_view name) {
    append_clean(line, name, NameKind::kFile);
}

void append_function_name(std::string& line, const model::CodeView& code) {
    const std::string_view name = code.qualified_name.empty() ? code.name : code.qualified_name;
    append_name(line, name.empty() ? kUnknown : name);
}

void append_thread_name(std::string& line, std::uint32_t native_thread_id, std::string_view name) {
    if (!name.empty()) {
        append_name(line, name);
    } else if (native_thread_id != 0) {
        line += "thread-";
        line += std::to_string(native_thread_id);
    } else {
        line += kUnknown;
    }
}

std::string format_version(model::PythonVersion version) {
    return std::to_string(version.major) + '.' + std::to_string(version.minor) + '.' +
           std::to_string(version.micro);
}

bool ends_in_number(std::string_view text) {
    std::size_t at = text.size();
    while (at > 0 && ((text[at - 1] >= '0' && text[at - 1] <= '9') || text[at - 1] == '.')) {
        --at;
    }
    return at < text.size() && at > 0 && text[at - 1] == ' ';
}

}  // namespace echion::output
