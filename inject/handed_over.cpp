#include "inject/handed_over.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/unique_fd.h"
#include "platform/linux/memory_file.h"

namespace echion::inject {
namespace {

int socket_option(int fd, int name) {
    int value = -1;
    socklen_t size_bytes = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &size_bytes) == 0 ? value : -1;
}

}  // namespace

bool is_control_socket_of(int fd, pid_t maker) {
    ucred peer{};
    socklen_t size_bytes = sizeof(peer);
    return socket_option(fd, SO_DOMAIN) == AF_UNIX &&
           socket_option(fd, SO_TYPE) == SOCK_SEQPACKET && socket_option(fd, SO_ACCEPTCONN) == 0 &&
           getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size_bytes) == 0 && peer.pid == maker;
}

Result<bool> is_empty_memory_file(int fd) {
    const UniqueFd own = make_memory_file("echion", MFD_CLOEXEC);
    struct stat own_status {};
    struct stat status {};
    if (!own || fstat(own.get(), &own_status) != 0) {
        return fail(ErrorKind::kSystem, "make a memory file", errno);
    }
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
           status.st_dev == own_status.st_dev && status.st_nlink == 0 && status.st_size == 0;
}

}  // namespace echion::inject
