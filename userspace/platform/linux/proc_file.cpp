#include "platform/linux/proc_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace echion {
namespace {

constexpr std::size_t kLineBufferBytes = 8192;

ssize_t read_retrying(int fd, char* into, std::size_t size_bytes) {
    ssize_t got = 0;
    do {
        got = ::read(fd, into, size_bytes);
    } while (got < 0 && errno == EINTR);
    return got;
}

}  // namespace

Result<UniqueFd> open_proc_file(pid_t pid, const char* name) {
    char path[4096 + 64];
    const int length =
        pid > 0 ? std::snprintf(path, sizeof(path), "/proc/%d/%s", static_cast<int>(pid), name)
                : std::snprintf(path, sizeof(path), "/proc/%s/%s",
                                pid == kOwnThread ? "thread-self" : "self", name);
    if (length < 0 || static_cast<std::size_t>(length) >= sizeof(path)) {
        return fail(ErrorKind::kNoSpace, "a path below /proc is too long", ENAMETOOLONG);
    }
    UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd) {
        return fail(ErrorKind::kSystem, "open a file below /proc", errno);
    }
    return fd;
}

Status for_each_line(int fd, FunctionRef<bool(std::string_view)> visit, std::uint64_t max_bytes) {
    char buffer[kLineBufferBytes];
    std::size_t filled = 0;
    bool passing_over = false;  // inside a line that is longer than the buffer
    for (;;) {
        const ssize_t got = read_retrying(fd, buffer + filled, sizeof(buffer) - filled);
        if (got < 0) {
            return fail(ErrorKind::kSystem, "read a file below /proc", errno);
        }
        if (got == 0) {
            if (filled > 0 && !passing_over) {
                visit({buffer, filled});
            }
            return {};
        }
        if (static_cast<std::uint64_t>(got) > max_bytes) {
            return fail(ErrorKind::kBoundExceeded, "a file below /proc is too long");
        }
        max_bytes -= static_cast<std::uint64_t>(got);
        filled += static_cast<std::size_t>(got);
        std::size_t begin = 0;
        while (const void* newline = std::memchr(buffer + begin, '\n', filled - begin)) {
            const auto end = static_cast<std::size_t>(static_cast<const char*>(newline) - buffer);
            if (!passing_over && !visit({buffer + begin, end - begin})) {
                return {};
            }
            passing_over = false;
            begin = end + 1;
        }
        std::memmove(buffer, buffer + begin, filled - begin);
        filled -= begin;
        if (filled == sizeof(buffer)) {
            passing_over = true;
            filled = 0;
        }
    }
}

Result<std::size_t> read_proc_text(pid_t pid, const char* name, char* into, std::size_t capacity) {
    auto file = open_proc_file(pid, name);
    if (!file) {
        return tl::unexpected(file.error());
    }
    std::size_t filled = 0;
    while (filled + 1 < capacity) {
        const ssize_t got = read_retrying(file->get(), into + filled, capacity - 1 - filled);
        if (got < 0) {
            return fail(ErrorKind::kSystem, "read a file below /proc", errno);
        }
        if (got == 0) {
            break;
        }
        filled += static_cast<std::size_t>(got);
    }
    into[filled] = '\0';
    return filled;
}

}  // namespace echion
