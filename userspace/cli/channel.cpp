#include "cli/channel.h"

#include <errno.h>
#include <sys/socket.h>

namespace echion::cli {
namespace {

/// An agent never sends more; more is refused.
constexpr std::size_t kMaxReceivedFds = 4;
/// All that one message can bring (SCM_MAX_FD in include/net/scm.h). What there is no room for the
/// kernel closes on the spot, which can take as long as the sender likes.
constexpr std::size_t kMaxSentFds = 253;

// From Linux 6.5 on; older headers lack them (include/uapi/asm-generic/socket.h,
// include/linux/socket.h).
constexpr int kPassPidfd = 76;  // SO_PASSPIDFD
constexpr int kPidfd = 4;       // SCM_PIDFD

void take_ancillary(cmsghdr& item, Packet& packet) {
    if (item.cmsg_type == SCM_RIGHTS) {
        const std::size_t count = (item.cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(&item) + i * sizeof(int), sizeof(fd));
            packet.fds.emplace_back(fd);
        }
    } else if (item.cmsg_type == SCM_CREDENTIALS) {
        ucred sender{};
        std::memcpy(&sender, CMSG_DATA(&item), sizeof(sender));
        packet.sender_pid = sender.pid;
    } else if (item.cmsg_type == kPidfd) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(&item), sizeof(fd));
        // An errno: the process was not there any more, unless it speaks of this one.
        packet.sender_has_gone = fd < 0 && fd != -EMFILE && fd != -ENFILE && fd != -ENOMEM;
        packet.sender_process.reset(fd < 0 ? -1 : fd);
    }
}

}  // namespace

std::optional<control::MessageType> Packet::type() const {
    control::Header header;
    if (size_bytes < sizeof(header)) {
        return std::nullopt;
    }
    std::memcpy(&header, bytes, sizeof(header));
    if (header.magic != control::kMagic || header.version != control::kVersion ||
        header.size_bytes != size_bytes) {
        return std::nullopt;
    }
    return header.type;
}

Result<Channel> Channel::adopt(ForeignFd fd) {
    const auto option = [&](int name) {
        int value = -1;
        socklen_t size = sizeof(value);
        return getsockopt(fd.get(), SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
    };
    if (option(SO_DOMAIN) != AF_UNIX || option(SO_TYPE) != SOCK_SEQPACKET ||
        option(SO_ACCEPTCONN) != 0) {
        return fail(ErrorKind::kProtocol, "the agent sent no control socket");
    }
    Channel channel(std::move(fd));
    if (auto status = channel.identify_senders(false); !status) {
        return tl::unexpected(status.error());
    }
    return channel;
}

Error explain_cut(int socket) {
    const UniqueFd another(dup(socket));
    if (!another) {
        return {ErrorKind::kSystem, errno, "take in the agent's descriptors"};
    }
    return {ErrorKind::kRefused, 0,
            "the kernel does not let echion have the agent's descriptors: a security module "
            "(SELinux, AppArmor) may forbid it"};
}

Status Channel::identify_senders(bool by_descriptor) {
    const int yes = 1;
    if (setsockopt(fd_.get(), SOL_SOCKET, SO_PASSCRED, &yes, sizeof(yes)) != 0) {
        return fail(ErrorKind::kSystem, "learn who sends (SO_PASSCRED)", errno);
    }
    if (by_descriptor) {
        (void)setsockopt(fd_.get(), SOL_SOCKET, kPassPidfd, &yes, sizeof(yes));
    }
    return {};
}

void Channel::hang_up() {
    if (is_open()) {
        shutdown(fd_.get(), SHUT_RDWR);
        has_hung_up_ = true;
    }
}

void Channel::close() {
    hang_up();
    fd_.reset();
}

bool Channel::has_waiting() const {
    char byte = 0;
    return recv(fd_.get(), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) > 0;
}

Status Channel::send(const void* message, std::size_t size_bytes, std::span<const int> fds) {
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * control::kMaxFds)];
    if (fds.size() > control::kMaxFds) {
        return fail(ErrorKind::kBoundExceeded, "send descriptors to the agent");
    }
    iovec part{const_cast<void*>(message), size_bytes};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (!fds.empty()) {
        std::memset(control, 0, sizeof(control));
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    if (sendmsg(fd_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) !=
        static_cast<ssize_t>(size_bytes)) {
        return fail(ErrorKind::kSystem, "send to the agent", errno);
    }
    return {};
}

Result<std::optional<Packet>> Channel::receive() {
    Packet packet;
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * kMaxSentFds) +
                                       CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int))];
    iovec part{packet.bytes, sizeof(packet.bytes)};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    ssize_t size = 0;
    do {
        size = recvmsg(fd_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
        return std::nullopt;
    }
    if (size < 0) {
        return fail(ErrorKind::kSystem, "receive from the agent", errno);
    }
    // Whatever is wrong with the packet, the descriptors in it must not leak.
    for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr;
         item = CMSG_NXTHDR(&header, item)) {
        if (item->cmsg_level == SOL_SOCKET) {
            take_ancillary(*item, packet);
        }
    }
    if ((header.msg_flags & MSG_CTRUNC) != 0) {
        return tl::unexpected(explain_cut(fd_.get()));
    }
    if ((header.msg_flags & MSG_TRUNC) != 0 || packet.fds.size() > kMaxReceivedFds) {
        return fail(ErrorKind::kProtocol, "the agent sent a message that is too large");
    }
    if (size == 0 && packet.fds.empty()) {
        return fail(ErrorKind::kSystem, "receive from the agent", ECONNRESET);
    }
    packet.size_bytes = static_cast<std::size_t>(size);
    return std::optional<Packet>(std::move(packet));
}

}  // namespace echion::cli
