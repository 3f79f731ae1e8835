#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string_view>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/unique_fd.h"

namespace echion {

/// In place of a pid: the calling thread. What is reached through it is there also after the thread
/// that the process started with has left.
constexpr pid_t kOwnThread = -1;

/// Opens /proc/PID/`name` for reading (never a FIFO's blocking open); pid 0 is /proc/self,
/// kOwnThread /proc/thread-self.
Result<UniqueFd> open_proc_file(pid_t pid, const char* name);

/// Calls `visit` for each line of a text file, without its newline, until it returns false. Lines
/// longer than the buffer (8 KiB on the stack) are passed over. Allocates nothing. kBoundExceeded
/// behind `max_bytes`; the lines until then have been visited.
Status for_each_line(int fd, FunctionRef<bool(std::string_view)> visit,
                     std::uint64_t max_bytes = UINT64_MAX);

/// Reads a small /proc file into `into`, NUL-terminated, cut to fit; the number of bytes.
Result<std::size_t> read_proc_text(pid_t pid, const char* name, char* into, std::size_t capacity);

/// What `parse` makes of the text of /proc/PID/task/TID/`file`, cut to kCapacity bytes.
template <std::size_t kCapacity, typename Value>
Result<Value> parse_task_file(pid_t pid, pid_t tid, const char* file,
                              Result<Value> (*parse)(std::string_view)) {
    char name[48];
    std::snprintf(name, sizeof(name), "task/%d/%s", static_cast<int>(tid), file);
    char text[kCapacity];
    const auto size = read_proc_text(pid, name, text, sizeof(text));
    if (!size) {
        return tl::unexpected(size.error());
    }
    return parse({text, *size});
}

}  // namespace echion
