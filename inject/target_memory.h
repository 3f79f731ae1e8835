#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "base/error.h"
#include "memory/address.h"

namespace echion::inject {

/// Writes into the memory of another process, all or kUnreadable (with errno; a part may have been
/// written). By process_vm_writev(2), or where that is refused by /proc/PID/mem.
Status write_target(pid_t pid, Address to, std::span<const std::byte> bytes);

template <typename T>
Status write_target_value(pid_t pid, Address to, const T& value) {
    return write_target(pid, to, std::as_bytes(std::span(&value, 1)));
}

}  // namespace echion::inject
