// The part of message_socket.h that the agent does without.
#include <sys/socket.h>

#include <cerrno>

#include "platform/message_socket.h"

namespace echion {
namespace {

// From Linux 6.5 on; older headers lack it (include/uapi/asm-generic/socket.h).
constexpr int kPassPidfd = 76;  // SO_PASSPIDFD

int read_option(int fd, int name) {
    int value = -1;
    socklen_t size = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

}  // namespace

bool is_message_socket(int fd) {
    return read_option(fd, SO_DOMAIN) == AF_UNIX && read_option(fd, SO_TYPE) == SOCK_SEQPACKET &&
           read_option(fd, SO_ACCEPTCONN) == 0;
}

Status identify_senders(int fd, bool by_descriptor) {
    const int yes = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)) != 0) {
        return fail(ErrorKind::kSystem, "learn who sends (SO_PASSCRED)", errno);
    }
    if (by_descriptor) {
        (void)setsockopt(fd, SOL_SOCKET, kPassPidfd, &yes, sizeof(yes));
    }
    return {};
}

}  // namespace echion
