#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "control/control.h"
#include "isolation/foreign_fd.h"
#include "platform/message_socket.h"

namespace echion::cli {

/// One message as it came, with the descriptors that came with it.
struct Packet {
    alignas(8) std::byte bytes[512];
    std::size_t size_bytes = 0;
    std::vector<ForeignFd> fds;
    Sender sender;

    /// The type that the header claims; nothing if magic, version or size are wrong.
    [[nodiscard]] std::optional<control::MessageType> type() const;

    /// The packet as a message of a type whose size it must have exactly.
    template <typename T>
    [[nodiscard]] std::optional<T> as(control::MessageType expected) const {
        if (type() != expected || size_bytes != sizeof(T)) {
            return std::nullopt;
        }
        T message;
        std::memcpy(&message, bytes, sizeof(T));
        return message;
    }
};

/// This program's end of a SOCK_SEQPACKET socket: control channel or rendezvous. Never blocks.
class Channel {
  public:
    Channel() = default;
    explicit Channel(ForeignFd fd) : fd_(std::move(fd)) {}

    /// Takes a descriptor that came from elsewhere, if it is a connected SOCK_SEQPACKET Unix
    /// socket. From now on the kernel says who sends.
    static Result<Channel> adopt(ForeignFd fd);

    /// Has the kernel say who sends, for messages sent from now on; with `by_descriptor`
    /// also by a descriptor of that process (open_process()), from Linux 6.5 on.
    Status identify_senders(bool by_descriptor);

    [[nodiscard]] int fd() const { return fd_.get(); }
    /// Whether this side has not hung up.
    [[nodiscard]] bool is_open() const { return fd_ && !has_hung_up_; }
    /// Ends the conversation at once, whoever else holds this end. The descriptor stays open, so
    /// that its number is nobody else's while an EventLoop watches it.
    void hang_up();
    /// Hangs up, and gives the descriptor back. No EventLoop may watch it any more: a description
    /// that somebody else holds stays with the loop for ever.
    void close();

    /// Sends one message with its descriptors. kSystem with EAGAIN when the other side does not
    /// read, with EPIPE when it is gone.
    Status send(const void* message, std::size_t size_bytes, std::span<const int> fds = {});

    /// The next packet; nothing when there is none now. kSystem with ECONNRESET when the other side
    /// has hung up and everything has been read; when not all descriptors could be taken in, and
    /// the packet is gone, with EMFILE or ENFILE, or kRefused (explain_cut()); kProtocol for a
    /// packet that is too large or brings too many descriptors.
    Result<std::optional<Packet>> receive();

    /// Whether a message has come that has not been received.
    [[nodiscard]] bool has_waiting() const;

  private:
    ForeignFd fd_;  // the other side's messages in it may hold descriptors
    bool has_hung_up_ = false;
};

/// Why the kernel has cut off some of the descriptors that a message brought (MSG_CTRUNC) to
/// `socket`, with room for all of them: there may be no more, or a security module keeps them back
/// (security_file_receive() in net/core/scm.c). To be asked before any of them is closed.
Error explain_cut(int socket);

/// A header for a message of type T.
template <typename T>
control::Header make_header(control::MessageType type) {
    return {control::kMagic, control::kVersion, type, sizeof(T)};
}

}  // namespace echion::cli
