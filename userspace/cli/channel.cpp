#include "cli/channel.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

namespace echion::cli {
namespace {

/// An agent never sends more; more is refused.
constexpr std::size_t kMaxReceivedFds = 4;

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
    if (!is_message_socket(fd.get())) {
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
    return echion::identify_senders(fd_.get(), by_descriptor);
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

bool Channel::has_waiting() const { return has_waiting_message(fd_.get()); }

Status Channel::send(const void* message, std::size_t size_bytes, std::span<const int> fds) {
    if (fds.size() > control::kMaxFds) {
        return fail(ErrorKind::kBoundExceeded, "send descriptors to the agent");
    }
    if (!send_message(fd_.get(), message, size_bytes, fds)) {
        return fail(ErrorKind::kSystem, "send to the agent", errno);
    }
    return {};
}

Result<std::optional<Packet>> Channel::receive() {
    Packet packet;
    std::array<int, kMaxSentFds> fds;
    auto received = receive_message(fd_.get(), packet.bytes, fds, false);
    if (!received &&
        (received.error().system_errno == EAGAIN || received.error().system_errno == EWOULDBLOCK)) {
        return std::nullopt;
    }
    if (!received) {
        return fail(ErrorKind::kSystem, "receive from the agent", received.error().system_errno);
    }
    // Whatever is wrong with the packet, the descriptors in it must not leak.
    for (std::size_t i = 0; i < received->fd_count; ++i) {
        packet.fds.emplace_back(fds[i]);
    }
    if (received->fds_are_cut) {
        return tl::unexpected(explain_cut(fd_.get()));
    }
    if (received->text_is_cut || packet.fds.size() > kMaxReceivedFds) {
        return fail(ErrorKind::kProtocol, "the agent sent a message that is too large");
    }
    if (received->size_bytes == 0 && packet.fds.empty()) {
        return fail(ErrorKind::kSystem, "receive from the agent", ECONNRESET);
    }
    packet.size_bytes = received->size_bytes;
    packet.sender = std::move(received->sender);
    return std::optional<Packet>(std::move(packet));
}

}  // namespace echion::cli
