#include "platform/message_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"

namespace echion {
namespace {

// From Linux 6.5 on; older headers lack it (include/linux/socket.h).
constexpr int kPidfd = 4;  // SCM_PIDFD

constexpr int kSendFlags = MSG_DONTWAIT | MSG_NOSIGNAL;

bool is_refusal(int error) { return error == EPERM || error == ENOSYS; }

void take_descriptors(const cmsghdr& item, std::span<int> fds, ReceivedMessage& message) {
    const std::size_t count = (item.cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(&item) + i * sizeof(int), sizeof(fd));
        if (message.fd_count < fds.size()) {
            fds[message.fd_count++] = fd;
        } else {
            ::close(fd);
            message.fds_are_cut = true;
        }
    }
}

void take_item(const cmsghdr& item, std::span<int> fds, ReceivedMessage& message) {
    if (item.cmsg_type == SCM_RIGHTS) {
        take_descriptors(item, fds, message);
    } else if (item.cmsg_type == SCM_CREDENTIALS) {
        ucred sender{};
        std::memcpy(&sender, CMSG_DATA(&item), sizeof(sender));
        message.sender.pid = sender.pid;
    } else if (item.cmsg_type == kPidfd) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(&item), sizeof(fd));
        // An errno: the process was not there any more, unless it speaks of this one.
        message.sender.has_gone = fd < 0 && fd != -EMFILE && fd != -ENFILE && fd != -ENOMEM;
        message.sender.process.reset(fd < 0 ? -1 : fd);
    }
}

}  // namespace

Result<MessageSockets> make_message_sockets() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
        return fail(ErrorKind::kSystem, "make a pair of sockets", errno);
    }
    return MessageSockets{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

bool send_message(int fd, const void* message, std::size_t size_bytes, std::span<const int> fds) {
    if (fds.empty()) {
        const ssize_t sent = ::send(fd, message, size_bytes, kSendFlags);
        if (sent >= 0 || !is_refusal(errno)) {
            return sent >= 0;
        }
    }
    iovec part{const_cast<void*>(message), size_bytes};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * kMaxSentFds)];
    if (fds.size() > kMaxSentFds) {
        errno = ETOOMANYREFS;
        return false;
    }
    if (!fds.empty()) {
        std::memset(control, 0, CMSG_SPACE(fds.size_bytes()));
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    return sendmsg(fd, &header, kSendFlags) >= 0;
}

ssize_t receive_text(int fd, void* into, std::size_t room_bytes, bool waits) {
    const int flags = waits ? 0 : MSG_DONTWAIT;
    const ssize_t got = recv(fd, into, room_bytes, flags);
    if (got >= 0 || !is_refusal(errno)) {
        return got;
    }
    iovec part{into, room_bytes};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    return recvmsg(fd, &header, flags);
}

bool has_waiting_message(int fd) {
    char byte = 0;
    return recv(fd, &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) > 0;
}

Result<ReceivedMessage> receive_message(int fd, std::span<std::byte> into, std::span<int> fds,
                                        bool waits) {
    // What there is no room for the kernel closes on the spot: SCM_MAX_FD (include/net/scm.h).
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * kMaxSentFds) +
                                       CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int))];
    iovec part{into.data(), into.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    ssize_t size = 0;
    do {
        size = recvmsg(fd, &header, MSG_CMSG_CLOEXEC | (waits ? 0 : MSG_DONTWAIT));
    } while (size < 0 && errno == EINTR);
    if (size < 0) {
        return fail(ErrorKind::kSystem, "receive a message", errno);
    }
    ReceivedMessage message;
    message.size_bytes = static_cast<std::size_t>(size);
    message.text_is_cut = (header.msg_flags & MSG_TRUNC) != 0;
    message.fds_are_cut = (header.msg_flags & MSG_CTRUNC) != 0;
    for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr;
         item = CMSG_NXTHDR(&header, item)) {
        if (item->cmsg_level == SOL_SOCKET) {
            take_item(*item, fds, message);
        }
    }
    return message;
}

int poll_descriptor(int fd, short events, std::int64_t timeout_ns) {
    pollfd entry{fd, events, 0};
    const timespec timeout = make_timespec(timeout_ns);
    const int ready = ppoll(&entry, 1, &timeout, nullptr);
    return ready <= 0 ? ready : entry.revents;
}

Status signal_arrivals(int fd, int signal, pid_t tid) {
    const f_owner_ex owner{F_OWNER_TID, tid};
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETSIG, signal) != 0 || fcntl(fd, F_SETOWN_EX, &owner) != 0 ||
        fcntl(fd, F_SETFL, flags | O_ASYNC) != 0) {
        return fail(ErrorKind::kSystem, "be told of what arrives", errno);
    }
    return {};
}

}  // namespace echion
