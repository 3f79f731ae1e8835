#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/unique_fd.h"

/// Sockets between processes of this machine that keep messages whole, with descriptors beside
/// them. A closed other end is an error and no signal. Any thread; nothing allocates.
namespace echion {

struct MessageSockets {
    UniqueFd one;
    UniqueFd other;
};

/// Both ends of a new connection.
Result<MessageSockets> make_message_sockets();

/// Whether it is one end of such a connection. For echion alone, as the next.
bool is_message_socket(int fd);

/// Has the system say who sends what is sent to this end from now on; with `by_descriptor` also by
/// a descriptor of that process (open_process()), where the system can.
Status identify_senders(int fd, bool by_descriptor);

/// Sends a message with copies of `fds`, without waiting for room. False with errno: EAGAIN where
/// there is no room, EPIPE where the other end is closed. Without descriptors, in another way where
/// the first one is refused.
bool send_message(int fd, const void* message, std::size_t size_bytes,
                  std::span<const int> fds = {});

/// Receives the text of a message, cut to fit; its size, 0 when the other end is closed, or -1 with
/// errno: EAGAIN where there is none and it is not to be waited for. In another way where the first
/// one is refused.
ssize_t receive_text(int fd, void* into, std::size_t room_bytes, bool waits);

/// Whether a message has come that has not been received.
bool has_waiting_message(int fd);

/// The process that sent a message.
struct Sender {
    /// As this process sees it; 0 where the system did not say. May be another one's by now.
    pid_t pid = 0;
    UniqueFd process;       ///< it itself: see identify_senders()
    bool has_gone = false;  ///< it has ended, so that there is no descriptor of it
};

/// What came with a message.
struct ReceivedMessage {
    std::size_t size_bytes = 0;  ///< of its text, and
    std::size_t fd_count = 0;    ///< its descriptors: both 0 when the other end is closed
    bool text_is_cut = false;
    bool fds_are_cut = false;  ///< more than there was room for, or not all could be had
    Sender sender;
};

/// All that one message can bring. Where there is room for fewer, the others are closed, which can
/// take as long as whoever sent them likes.
constexpr std::size_t kMaxSentFds = 253;

/// Receives a message. Its descriptors are the caller's from then on, also those of a message that
/// is cut. kSystem with errno, as receive_text(). Takes some 2 KiB of stack.
Result<ReceivedMessage> receive_message(int fd, std::span<std::byte> into, std::span<int> fds,
                                        bool waits);

/// What a descriptor is ready for, of `events` of poll(2), and its hang-up: 0 when the time is
/// over, -1 with errno.
int poll_descriptor(int fd, short events, std::int64_t timeout_ns);

/// From now on tells of what arrives, and of a hang-up, by `signal` to the thread `tid`, with the
/// descriptor as its si_fd.
Status signal_arrivals(int fd, int signal, pid_t tid);

}  // namespace echion
