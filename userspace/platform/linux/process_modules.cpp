#include "platform/process_modules.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "platform/linux/proc_file.h"

namespace echion {
namespace {

/// A cursor over one line. Each take_ function moves past what it took, or fails and moves nowhere.
class Cursor {
  public:
    explicit Cursor(std::string_view text) : text_(text) {}

    bool take_number(std::uint64_t& value, int base) {
        const auto [end, error] =
            std::from_chars(text_.data(), text_.data() + text_.size(), value, base);
        if (error != std::errc()) {
            return false;
        }
        text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
        return true;
    }
    bool take(char expected) {
        if (text_.empty() || text_.front() != expected) {
            return false;
        }
        text_.remove_prefix(1);
        return true;
    }
    /// A letter of the permissions: `letter` or '-'.
    bool take_flag(char letter, char otherwise, bool& flag) {
        flag = take(letter);
        return flag || take(otherwise);
    }
    [[nodiscard]] std::string_view rest() const { return text_; }

  private:
    std::string_view text_;
};

constexpr std::string_view kDeletedSuffix = " (deleted)";
constexpr std::string_view kNewlineEscape = "\\012";
// A process has at most 65,530 ranges (vm.max_map_count; up to a million where databases run), and
// a line is rarely longer than 200 bytes: 200 MB. The most that a user can make of the default are
// 65,530 paths of 4 KiB, 270 MB, which the kernel writes in 3.5 s.
constexpr std::uint64_t kMaxMapBytes = std::uint64_t{512} << 20;

/// From where the file stands.
Status walk_map(const UniqueFd& map, FunctionRef<bool(const MappedRange&)> visit) {
    return for_each_line(
        map.get(),
        [&](std::string_view line) {
            const auto range = parse_mapped_range(line);
            return !range || visit(*range);
        },
        kMaxMapBytes);
}

}  // namespace

Result<MappedRange> parse_mapped_range(std::string_view line) {
    // 7f12a000-7f12b000 r-xp 00001000 fd:01 1234567    /some/path with spaces (deleted)
    Cursor cursor(line);
    MappedRange range;
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::uint64_t major_number = 0;
    std::uint64_t minor_number = 0;
    const bool parsed =
        cursor.take_number(start, 16) && cursor.take('-') && cursor.take_number(end, 16) &&
        cursor.take(' ') && cursor.take_flag('r', '-', range.readable) &&
        cursor.take_flag('w', '-', range.writable) &&
        cursor.take_flag('x', '-', range.executable) && cursor.take_flag('s', 'p', range.shared) &&
        cursor.take(' ') && cursor.take_number(range.file_offset, 16) && cursor.take(' ') &&
        cursor.take_number(major_number, 16) && cursor.take(':') &&
        cursor.take_number(minor_number, 16) && cursor.take(' ') &&
        cursor.take_number(range.inode, 10);
    if (!parsed || start > end || end > UINTPTR_MAX || major_number > UINT32_MAX ||
        minor_number > UINT32_MAX) {
        return fail(ErrorKind::kInvalid, "a line of the memory map");
    }
    range.start = Address(static_cast<std::uintptr_t>(start));
    range.end = Address(static_cast<std::uintptr_t>(end));
    range.device =
        makedev(static_cast<unsigned>(major_number), static_cast<unsigned>(minor_number));
    while (cursor.take(' ')) {
    }
    range.path = cursor.rest();
    if (range.inode != 0 && range.path.size() > kDeletedSuffix.size() &&
        range.path.ends_with(kDeletedSuffix)) {
        range.deleted = true;
        range.path.remove_suffix(kDeletedSuffix.size());
    }
    return range;
}

Status unescape_path(std::string_view path, char* into, std::size_t capacity) {
    std::size_t used = 0;
    while (!path.empty()) {
        if (used + 1 >= capacity) {
            return fail(ErrorKind::kNoSpace, "a path in the memory map is too long");
        }
        if (path.starts_with(kNewlineEscape)) {
            into[used++] = '\n';
            path.remove_prefix(kNewlineEscape.size());
        } else {
            into[used++] = path.front();
            path.remove_prefix(1);
        }
    }
    into[used] = '\0';
    return {};
}

Status for_each_mapped_range(pid_t pid, FunctionRef<bool(const MappedRange&)> visit) {
    auto file = open_proc_file(pid == kOwnProcess ? kOwnThread : pid, "maps");
    if (!file) {
        return tl::unexpected(file.error());
    }
    return walk_map(*file, visit);
}

Status for_each_mapped_range(const UniqueFd& map, FunctionRef<bool(const MappedRange&)> visit) {
    if (::lseek(map.get(), 0, SEEK_SET) != 0) {
        return fail(ErrorKind::kSystem, "read a memory map", errno);
    }
    return walk_map(map, visit);
}

Status for_each_module(pid_t pid, FunctionRef<bool(const MappedRange&)> visit) {
    return for_each_mapped_range(pid, [&](const MappedRange& range) {
        const bool is_file_start = range.inode != 0 && range.file_offset == 0;
        const bool may_be_elf = is_file_start || range.path == "[vdso]";
        return !may_be_elf || !range.readable || visit(range);
    });
}

Result<UniqueFd> open_mapped_file(pid_t pid, const MappedRange& range) {
    char name[64];
    std::snprintf(name, sizeof(name), "map_files/%zx-%zx", range.start.value(), range.end.value());
    if (auto file = open_proc_file(pid, name)) {
        return file;
    }
    if (range.deleted || !range.path.starts_with('/')) {
        return fail(ErrorKind::kSystem, "open a deleted file through map_files", EPERM);
    }
    constexpr std::string_view kRoot = "root";
    char path[4096 + kRoot.size()];
    std::memcpy(path, kRoot.data(), kRoot.size());
    if (auto status = unescape_path(range.path, path + kRoot.size(), sizeof(path) - kRoot.size());
        !status) {
        return tl::unexpected(status.error());
    }
    auto file = open_proc_file(pid == kOwnProcess ? kOwnThread : pid, path);
    if (!file) {
        return file;
    }
    // Only the inode: on overlay file systems the map names another device than stat(2) does.
    // By number: fstat() would bind the agent to a recent C library.
    struct statx status {};
    if (syscall(SYS_statx, file->get(), "", AT_EMPTY_PATH, STATX_INO | STATX_TYPE, &status) != 0 ||
        status.stx_ino != range.inode || !S_ISREG(status.stx_mode)) {
        return fail(ErrorKind::kInvalid, "the mapped file has been replaced by another");
    }
    return file;
}

}  // namespace echion
