#include "inject/map_lookup.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstdint>

#include "platform/linux/proc_file.h"
#include "platform/process_modules.h"

namespace echion::inject {
namespace {

// struct procmap_query (include/uapi/linux/fs.h since 6.11), which older headers lack.
struct Query {
    std::uint64_t size_bytes;
    std::uint64_t flags;
    std::uint64_t address;
    std::uint64_t start;
    std::uint64_t end;
    std::uint64_t range_flags;
    std::uint64_t page_bytes;
    std::uint64_t file_offset;
    std::uint64_t inode;
    std::uint32_t device_major;
    std::uint32_t device_minor;
    std::uint32_t name_bytes;
    std::uint32_t build_id_bytes;
    std::uint64_t name;
    std::uint64_t build_id;
};
static_assert(sizeof(Query) == 104);
constexpr unsigned long kQuery = _IOWR('f', 17, Query);
constexpr std::uint64_t kWritable = 2;
constexpr std::uint64_t kExecutable = 4;

}  // namespace

Result<MapLookup> MapLookup::open(pid_t pid) {
    auto map = open_proc_file(pid, "maps");
    if (!map) {
        return fail(ErrorKind::kSystem, "open its memory map", map.error().system_errno);
    }
    return MapLookup(std::move(*map));
}

std::optional<MapEntry> MapLookup::find(Address address) {
    if (!has_query_) {
        return search(address);
    }
    Query query{};
    query.size_bytes = sizeof(query);
    query.address = address.value();
    if (ioctl(map_.get(), kQuery, &query) == 0) {
        return MapEntry{Address(query.start), Address(query.end),
                        (query.range_flags & kWritable) != 0,
                        (query.range_flags & kExecutable) != 0, query.inode != 0};
    }
    has_query_ = errno != ENOTTY && errno != EINVAL;
    return has_query_ ? std::nullopt : search(address);
}

std::optional<MapEntry> MapLookup::search(Address address) const {
    std::optional<MapEntry> found;
    (void)for_each_mapped_range(map_, [&](const MappedRange& range) {
        if (range.contains(address)) {
            found = {range.start, range.end, range.writable, range.executable, range.inode != 0};
        }
        return range.end <= address;
    });
    return found;
}

}  // namespace echion::inject
