#pragma once

#include <sys/types.h>

#include "base/error.h"

/// Checks of the descriptors that a target names as what its helper thread has made. The numbers
/// come from the target's memory: they may mean any file that it has open.
namespace echion::inject {

/// Whether `fd` is one end of a pair of SOCK_SEQPACKET sockets that process `maker` made, and so
/// nothing that another process reads from.
bool is_control_socket_of(int fd, pid_t maker);

/// Whether `fd` is a file as memfd_create(2) makes them, with nothing in it. Such files lie in a
/// file system of the kernel's own, in which nothing else can be made. (Seals are no sign of one:
/// any file of a tmpfs has them.) kSystem with errno where this process cannot make such a file
/// itself, to compare.
Result<bool> is_empty_memory_file(int fd);

}  // namespace echion::inject
