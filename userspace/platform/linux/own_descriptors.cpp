#include "platform/own_descriptors.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "platform/linux/close_range.h"
#include "platform/linux/proc_file.h"

namespace echion {
namespace {

// Where descriptors cannot be listed: as many as are tried.
constexpr rlim_t kMostNumbers = 1 << 16;

struct DirectoryEntry {  // struct linux_dirent64 of getdents(2)
    std::uint64_t inode;
    std::int64_t next;
    std::uint16_t size_bytes;
    std::uint8_t type;
};
constexpr std::size_t kNameOffset = offsetof(DirectoryEntry, type) + sizeof(DirectoryEntry::type);

/// Closes the descriptors that a part of the folder's listing names, but for two. Their number.
int close_listed(const char* entries, std::size_t size_bytes, int kept, int folder) {
    int closed = 0;
    for (std::size_t at = 0; size_bytes - at > kNameOffset;) {
        DirectoryEntry entry;
        std::memcpy(&entry, entries + at, kNameOffset);
        if (entry.size_bytes <= kNameOffset || entry.size_bytes > size_bytes - at) {
            break;
        }
        const char* name = entries + at + kNameOffset;
        const std::string_view text(name, strnlen(name, entry.size_bytes - kNameOffset));
        int fd = -1;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fd);
        if (error == std::errc() && end == text.data() + text.size() && fd != kept &&
            fd != folder) {
            ::close(fd);
            ++closed;
        }
        at += entry.size_bytes;
    }
    return closed;
}

/// Closes all descriptors of the calling thread's own table but one.
void close_others(int kept) {
    if (const auto folder = open_proc_file(kOwnThread, "fd")) {
        alignas(DirectoryEntry) char entries[4096];
        int closed = 0;
        do {
            closed = 0;
            ::lseek(folder->get(), 0, SEEK_SET);
            for (long got = 0;
                 (got = syscall(SYS_getdents64, folder->get(), entries, sizeof(entries))) > 0;) {
                closed += close_listed(entries, static_cast<std::size_t>(got), kept, folder->get());
            }
        } while (closed != 0);
        return;
    }
    rlimit limit{};
    const bool is_known = getrlimit(RLIMIT_NOFILE, &limit) == 0;
    const int end =
        static_cast<int>(std::min(is_known ? limit.rlim_max : kMostNumbers, kMostNumbers));
    for (int fd = 0; fd < end; ++fd) {
        if (fd != kept) {
            ::close(fd);
        }
    }
}

}  // namespace

// close_range(2) copies the descriptors up to `kept`, at least 64, and closes the copies of the
// others at once: for some microseconds the program's files have one reference more. unshare(2)
// copies all.
bool leave_descriptor_table(int kept, bool may_copy) {
    const auto number = static_cast<unsigned>(kept);
    if (syscall(SYS_close_range, number + 1, ~0U, CLOSE_RANGE_UNSHARE) == 0) {
        if (number > 0) {
            syscall(SYS_close_range, 0U, number - 1, 0U);
        }
        return true;
    }
    if (!may_copy || syscall(SYS_unshare, CLONE_FILES) != 0) {
        return false;
    }
    close_others(kept);
    return true;
}

void close_descriptors_from(int first) { (void)syscall(SYS_close_range, first, ~0U, 0U); }

UniqueFd open_descriptor_anew(pid_t tid, int fd, int flags) {
    char path[48];
    std::snprintf(path, sizeof(path), "/proc/self/task/%d/fd/%d", static_cast<int>(tid), fd);
    return UniqueFd(::open(path, flags | O_CLOEXEC));
}

}  // namespace echion
