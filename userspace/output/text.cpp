#include "output/text.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "base/utf8.h"

namespace echion::output {
namespace {

constexpr std::string_view kFullWidthSemicolon = "\uFF1B";
constexpr std::string_view kFullWidthColon = "\uFF1A";
constexpr std::string_view kFullWidthSlash = "\uFF0F";
constexpr std::string_view kDeletePicture = "\u2421";
constexpr std::string_view kUnknown = "<unknown>";

/// Beyond ASCII: a line break, a control character or a mark that turns the direction of writing.
/// All of them begin with one of two bytes, which needs_care() knows.
bool is_break_or_turn(std::uint32_t code_point) {
    return (code_point >= 0x80 && code_point <= 0x9f) ||
           (code_point >= 0x2028 && code_point <= 0x202e) ||
           (code_point >= 0x2066 && code_point <= 0x2069);
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
            const CodePoint next = decode_utf8(name.substr(at));
            length = next.size_bytes;
            if (!is_break_or_turn(next.value)) {
                at += length;
                continue;
            }
            instead = kReplacementText;
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
    // Frames without a file that mean something else, to which a task's name can be equal.
    constexpr std::string_view kMarks[] = {"GC", "INVALID", "MISSED", "TRUNCATED"};
    if (code.kind == model::CodeKind::kLabel &&
        std::find(std::begin(kMarks), std::end(kMarks), name) != std::end(kMarks)) {
        line += "task ";
    }
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
