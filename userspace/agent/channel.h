#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>

#include "agent/guest.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "control/control.h"

namespace echion::agent {

/// What tells a socket of ours from a file of the target that has its number now.
struct SocketId {
    dev_t device = 0;
    ino_t inode = 0;
};

/// That of a descriptor; zeros when there is none.
SocketId identify(int fd);
/// Whether `fd` is that socket, and not a file of the target under a number that it has closed
/// (os.closerange()) and been given again. Signal-safe.
bool is_socket(int fd, const SocketId& id);

/// A launched command's end of the rendezvous socket. It is the environment's: shells, `env` and
/// forked children inherit it, and each that becomes Python connects to it. It stays open as long
/// as the program at the other end may answer, and not a moment longer than the agent can help.
class Rendezvous {
  public:
    /// None.
    Rendezvous() = default;
    /// The socket that kRendezvousVariable names, if it still is that socket.
    static Rendezvous find();

    [[nodiscard]] bool is_there() const { return is_socket(fd_, id_); }
    /// Makes a channel, where move_up() puts it, and sends its other end to the program. Waits half
    /// a second at most for room (kSystem with EAGAIN); EBADF when the socket has been closed.
    [[nodiscard]] Result<UniqueFd> connect(bool has_own_table) const;
    /// Whether nobody is left at the other end. Waits up to `timeout_ns` for that.
    [[nodiscard]] bool is_abandoned(std::int64_t timeout_ns) const;
    /// Closes it in the calling thread's descriptor table, unless it has been closed already.
    void close();
    /// Its number there.
    [[nodiscard]] int fd() const { return fd_; }

  private:
    int fd_ = -1;
    SocketId id_;
};

/// The agent's end of the control channel. Sampler thread only, except what is static.
///
/// Where the sampler has no descriptor table of its own, it lives among the target's: before it is
/// written to, read or closed it is looked at whether it is still the same socket. If not, the
/// target has closed it, as daemons do: it is lost then, and nothing comes through it any more.
class Channel {
  public:
    /// `has_own_table`: see descriptors.h.
    Channel(UniqueFd socket, bool has_own_table);
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;
    ~Channel();

    [[nodiscard]] int fd() const { return socket_.get(); }
    [[nodiscard]] const SocketId& id() const { return id_; }
    /// Whether nobody else in this process sees its descriptor, or any that this thread opens.
    [[nodiscard]] bool has_own_table() const { return has_own_table_; }

    Status send_hello();
    /// Waits for the configuration, for ever. Descriptors that come with it are in `fds`, at the
    /// places that `fd_kinds` names. kProtocol when the other side hung up or is not one of ours.
    Result<control::Configure> receive_configure();
    /// Tells the other side that the sampler, with `signal` blocked, is ready for ticks, and waits
    /// for the answer. kNotReady when that is to stop, kProtocol when it is none.
    Result<control::Armed> arm(std::uint32_t sampler_tid, const GuestFacts& facts, int signal,
                               const void* snapshot_layout, std::size_t layout_bytes);
    /// From now on also tells of a message, or a hang-up, by `signal` to the thread `tid`, with the
    /// channel's descriptor as its si_fd.
    Status signal_arrivals(int signal, pid_t tid);
    void send_started(std::uint32_t python_version, std::uint32_t sampler_tid,
                      std::int32_t raised_by);
    /// At any time, also without a Hello.
    void send_failed(const Error& error);
    void send_stopped();

    /// The descriptor of a kind that came with the configuration, or -1. Owned by the channel.
    [[nodiscard]] int find_fd(const control::Configure& configure, control::FdKind kind) const;
    /// Closes the descriptors that came with the configuration: what they are for has been mapped.
    /// The target has the fewer of ours, and its children inherit none.
    void close_received();

    /// Whether the other side has asked to stop, or has hung up; never once the channel is lost.
    /// Waits until then or until `timeout_ns` have passed; 0 looks only.
    bool wait_for_stop(std::int64_t timeout_ns);
    /// Whether the other side has asked to stop: for it, the whole run is over.
    [[nodiscard]] bool was_told_to_stop() const { return was_told_to_stop_; }
    /// Whether wait_for_stop() said so because no way of waiting is left (seccomp).
    [[nodiscard]] bool cannot_wait() const { return cannot_wait_; }
    /// Whether the target has closed it.
    [[nodiscard]] bool is_lost() const { return !is_socket(socket_.get(), id_); }
    /// Whether the other side has hung up, or the channel is lost.
    [[nodiscard]] bool has_hung_up() const;

  private:
    template <typename Message>
    Status send(Message& message, control::MessageType type);

    UniqueFd socket_;
    SocketId id_;
    bool has_own_table_;
    bool was_told_to_stop_ = false;
    bool cannot_wait_ = false;
    bool was_lost_ = false;  // found so by wait_for_stop()
    std::array<UniqueFd, control::kMaxFds> fds_;
};

}  // namespace echion::agent
