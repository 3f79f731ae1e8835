#include "cli/message.h"

#include <unistd.h>

#include <cstring>

namespace echion::cli {

void print_message(std::string_view text) {
    const std::string line = fmt::format("echion: {}\n", text);
    std::string_view rest = line;
    while (!rest.empty()) {
        const ssize_t count = ::write(STDERR_FILENO, rest.data(), rest.size());
        if (count <= 0) {
            return;  // nobody to tell
        }
        rest.remove_prefix(static_cast<std::size_t>(count));
    }
}

std::string describe(const Error& error) {
    if (error.system_errno == 0) {
        return error.what;
    }
    return fmt::format("{}: {}", error.what, strerror(error.system_errno));
}

std::string make_printable(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte >= 0x7f) {
            c = '?';
        }
    }
    return result;
}

}  // namespace echion::cli
