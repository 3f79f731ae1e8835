#pragma once

#include <sys/types.h>

#include <optional>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"
#include "memory/address.h"

namespace echion::inject {

/// A range of a process's memory map.
struct MapEntry {
    Address start;
    Address end;
    bool is_writable = false;
    bool is_executable = false;
    bool is_file = false;

    [[nodiscard]] bool contains(Address address) const { return address >= start && address < end; }
};

/// Answers what is mapped at an address now. By one system call (PROCMAP_QUERY, Linux 6.11), or by
/// reading the map until it has been found; of the program image that the process had when this was
/// opened. One thread at a time.
class MapLookup {
  public:
    /// kSystem with errno: EMFILE, ESRCH, EACCES, …
    static Result<MapLookup> open(pid_t pid);

    /// Nothing if nothing is mapped there, or it cannot be told.
    std::optional<MapEntry> find(Address address);

  private:
    explicit MapLookup(UniqueFd map) : map_(std::move(map)) {}
    std::optional<MapEntry> search(Address address) const;

    UniqueFd map_;  // /proc/PID/maps
    bool has_query_ = true;
};

}  // namespace echion::inject
