#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/unique_fd.h"
#include "memory/address.h"

namespace echion {

/// The process that asks, wherever a pid is wanted. Looked up as /proc/self, so that it is right
/// in a PID namespace whose /proc belongs to another one.
constexpr pid_t kOwnProcess = 0;

/// One line of a process's memory map. `path` points into a buffer of the walk and is good until
/// the visitor returns; newlines in it stand as the kernel writes them, `\012`.
struct MappedRange {
    Address start;
    Address end;
    std::uint64_t file_offset = 0;
    std::uint64_t device = 0;  ///< as makedev(major, minor)
    std::uint64_t inode = 0;   ///< 0: not a file
    bool readable = false;
    bool writable = false;
    bool executable = false;
    bool shared = false;
    bool deleted = false;   ///< the file has no name any more; `path` is the one it had
    std::string_view path;  ///< empty, a path, or a name in brackets such as "[stack]"

    [[nodiscard]] std::size_t size_bytes() const { return end - start; }
    [[nodiscard]] bool contains(Address address) const { return address >= start && address < end; }
};

/// Parses one line of /proc/PID/maps, without its newline (proc(5)). kInvalid for anything else.
/// Pure.
Result<MappedRange> parse_mapped_range(std::string_view line);

/// Writes `path` with each `\012` turned back into a newline into `into`, NUL-terminated. kNoSpace
/// when it does not fit. The result is one of the names that the kernel's line may stand for: it
/// writes a backslash in a name as it is.
Status unescape_path(std::string_view path, char* into, std::size_t capacity);

/// Calls `visit` for each range of a process's memory map, lowest address first, until it returns
/// false. Lines that cannot be parsed or are longer than the buffer (8 KiB on the stack) are passed
/// over. Not a snapshot: the process may map and unmap between two reads. Allocates nothing.
/// kSystem with errno when the map cannot be opened or read; kBoundExceeded behind 512 MiB of it.
Status for_each_mapped_range(pid_t pid, FunctionRef<bool(const MappedRange&)> visit);

/// The same of a map that has been opened (/proc/PID/maps): of the program image that the process
/// had then. Starts at its beginning each time.
Status for_each_mapped_range(const UniqueFd& map, FunctionRef<bool(const MappedRange&)> visit);

/// Calls `visit` for the first range (file offset 0) of each file that is mapped readable, and for
/// the vdso, until it returns false. Not all of them are ELF objects. Bounds as above.
Status for_each_module(pid_t pid, FunctionRef<bool(const MappedRange&)> visit);

/// Opens the file behind a mapped range for reading, also when it has been deleted or replaced, or
/// lies in another mount namespace: through /proc/PID/map_files (needs CAP_SYS_ADMIN or
/// CAP_CHECKPOINT_RESTORE), else by name below /proc/PID/root. What is opened by name is the same
/// inode, or kInvalid. kSystem with errno when neither can be opened.
Result<UniqueFd> open_mapped_file(pid_t pid, const MappedRange& range);

}  // namespace echion
