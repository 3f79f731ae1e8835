#include "console/message.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/utf8.h"

namespace echion {
namespace {

/// In one write: what a pipe takes in one piece, and without waiting when it has room at all.
constexpr std::size_t kPieceBytes = 4096;
/// For whom standard error is read by somebody slow. After that it is not waited for again.
constexpr int kPatienceMs = 1000;

/// Whether standard error takes something: a full pipe or a stopped terminal must not keep this
/// program from its signals. Any thread.
bool has_room() {
    static std::atomic<bool> is_stuck{false};  // as the last look of any thread found it
    pollfd entry{STDERR_FILENO, POLLOUT, 0};
    const bool has_none = poll(&entry, 1, is_stuck.load() ? 0 : kPatienceMs) == 0;
    is_stuck.store(has_none);
    return !has_none;
}

/// Where to look for the limit behind an errno that stands for one.
std::string_view advise_on(int system_errno) {
    switch (system_errno) {
        case EMFILE:
            return " (echion may open no more: see ulimit -n)";
        case ENFILE:
            return " (the machine has no more: see sysctl fs.file-max)";
        case EFBIG:
            return " (see ulimit -f)";
        default:
            return "";
    }
}

}  // namespace

void print_message(std::string_view text) {
    const std::string line = fmt::format("echion: {}\n", make_printable(text));
    std::string_view rest = line;
    while (!rest.empty()) {
        if (!has_room()) {
            return;
        }
        const ssize_t count =
            ::write(STDERR_FILENO, rest.data(), std::min(rest.size(), kPieceBytes));
        if (count <= 0) {
            return;  // nobody to tell
        }
        rest.remove_prefix(static_cast<std::size_t>(count));
    }
}

bool write_text(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno != EINTR) {
            return false;
        }
        text.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
    }
    return true;
}

bool print_result(std::string_view text) {
    if (write_text(STDOUT_FILENO, text)) {
        return true;
    }
    say("cannot write to standard output: {}", strerror(errno));
    return false;
}

std::string describe(const Error& error) {
    if (error.system_errno == 0) {
        return error.what;
    }
    return fmt::format("{}{}{}{}", error.what, *error.what != '\0' ? ": " : "",
                       strerror(error.system_errno), advise_on(error.system_errno));
}

std::string describe(const std::exception& error) {
    const auto* system = dynamic_cast<const std::system_error*>(&error);
    if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
        return "not enough memory (see ulimit -v and ulimit -d)";
    }
    if (system != nullptr && system->code().value() == EAGAIN) {
        return "it may not make a thread (see ulimit -u, -v and -d)";
    }
    return error.what();
}

std::string make_printable(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        const std::string_view before = text;
        const CodePoint next = take_code_point(text);
        const std::string_view bytes = before.substr(0, next.size_bytes);
        if (next.is_well_formed() && !is_unprintable(next.value)) {
            result += bytes;
            continue;
        }
        for (const char byte : bytes) {
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
        }
    }
    return result;
}

std::string name_signal(int number) {
    const char* name = sigabbrev_np(number);
    return name != nullptr ? fmt::format("SIG{}", name) : fmt::format("signal {}", number);
}

std::string quote(std::string_view text) { return fmt::format("'{}'", make_printable(text)); }

}  // namespace echion
