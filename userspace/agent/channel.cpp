#include "agent/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "agent/descriptors.h"
#include "base/clock.h"

namespace echion::agent {
namespace {

template <typename Message>
void fill_header(Message& message, control::MessageType type) {
    message.header = {control::kMagic, control::kVersion, type, sizeof(Message)};
}

template <typename Message>
bool is_message(const Message& message, std::size_t size_bytes, control::MessageType type) {
    return size_bytes == sizeof(Message) && message.header.magic == control::kMagic &&
           message.header.version == control::kVersion && message.header.type == type &&
           message.header.size_bytes == sizeof(Message);
}

bool is_refusal(int error) { return error == EPERM || error == ENOSYS; }

/// send(), or sendmsg() where that is refused (seccomp).
ssize_t send_packet(int fd, const void* packet, std::size_t size_bytes) {
    constexpr int kFlags = MSG_DONTWAIT | MSG_NOSIGNAL;
    const ssize_t sent = ::send(fd, packet, size_bytes, kFlags);
    if (sent >= 0 || !is_refusal(errno)) {
        return sent;
    }
    iovec data{const_cast<void*>(packet), size_bytes};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    return sendmsg(fd, &message, kFlags);
}

/// recv(), or recvmsg() likewise.
ssize_t receive_packet(int fd, void* packet, std::size_t size_bytes, int flags) {
    const ssize_t got = recv(fd, packet, size_bytes, flags);
    if (got >= 0 || !is_refusal(errno)) {
        return got;
    }
    iovec data{packet, size_bytes};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    return recvmsg(fd, &message, flags);
}

// How long a Connect waits for room in the rendezvous' queue; the program may wait for it.
constexpr std::int64_t kQueueNs = kNanosPerSecond / 2;

/// False when that is refused.
bool sleep_for(const timespec& time) {
    const int error = clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
    return error == 0 || error == EINTR;
}

}  // namespace

SocketId identify(int fd) {
    struct stat status {};
    return fstat(fd, &status) == 0 ? SocketId{status.st_dev, status.st_ino} : SocketId{};
}

bool is_socket(int fd, const SocketId& id) {
    struct stat status {};
    return fd >= 0 && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) &&
           status.st_dev == id.device && status.st_ino == id.inode;
}

Rendezvous Rendezvous::find() {
    const char* value = std::getenv(control::kRendezvousVariable);
    int fd = -1;
    unsigned long long inode = 0;
    Rendezvous rendezvous;
    if (value == nullptr || std::sscanf(value, "%d:%llu", &fd, &inode) != 2) {
        return rendezvous;
    }
    const SocketId id = identify(fd);
    if (id.inode == static_cast<ino_t>(inode) && is_socket(fd, id)) {
        rendezvous.fd_ = fd;
        rendezvous.id_ = id;
    }
    return rendezvous;
}

Result<UniqueFd> Rendezvous::connect(bool has_own_table) const {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        return fail(ErrorKind::kSystem, "make a control channel", errno);
    }
    UniqueFd own = move_up(UniqueFd(pair[0]), has_own_table);
    UniqueFd other(pair[1]);
    control::Connect message{};
    fill_header(message, control::MessageType::kConnect);
    alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int))] = {};
    iovec data{&message, sizeof(message)};
    msghdr packet{};
    packet.msg_iov = &data;
    packet.msg_iovlen = 1;
    packet.msg_control = ancillary;
    packet.msg_controllen = sizeof(ancillary);
    cmsghdr* rights = CMSG_FIRSTHDR(&packet);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = other.get();
    std::memcpy(CMSG_DATA(rights), &fd, sizeof(fd));
    // Where many programs begin at a time, their packets may fill the queue for a moment. Meanwhile
    // the program may give the number to a socket of its own.
    const std::int64_t deadline_ns = monotonic_ns() + kQueueNs;
    for (;;) {
        if (!is_there()) {
            return fail(ErrorKind::kSystem, "send the control channel", EBADF);
        }
        if (sendmsg(fd_, &packet, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) {
            return own;
        }
        const int cause = errno;
        const std::int64_t left_ns = deadline_ns - monotonic_ns();
        const timespec patience = make_timespec(left_ns);
        pollfd room{fd_, POLLOUT, 0};
        if (cause != EINTR && (cause != EAGAIN || left_ns <= 0 ||
                               (ppoll(&room, 1, &patience, nullptr) < 0 && errno != EINTR))) {
            return fail(ErrorKind::kSystem, "send the control channel", cause);
        }
    }
}

bool Rendezvous::is_abandoned(std::int64_t timeout_ns) const {
    pollfd entry{fd_, 0, 0};  // a hang-up is told unasked
    const timespec timeout = make_timespec(timeout_ns);
    return is_there() && ppoll(&entry, 1, &timeout, nullptr) == 1 && (entry.revents & POLLHUP) != 0;
}

void Rendezvous::close() {
    if (is_there()) {
        ::close(fd_);
    }
    fd_ = -1;
}

Channel::Channel(UniqueFd socket, bool has_own_table)
    : socket_(std::move(socket)), id_(identify(socket_.get())), has_own_table_(has_own_table) {}

Channel::~Channel() {
    if (!is_socket(socket_.get(), id_)) {
        (void)socket_.release();
    }
}

template <typename Message>
Status Channel::send(Message& message, control::MessageType type) {
    fill_header(message, type);
    if (!is_socket(socket_.get(), id_)) {
        return fail(ErrorKind::kProtocol, "the target has closed the control channel");
    }
    if (send_packet(socket_.get(), &message, sizeof(message)) < 0) {
        return fail(ErrorKind::kSystem, "send a control message", errno);
    }
    return {};
}

Status Channel::send_hello() {
    control::Hello message{};
    std::snprintf(message.agent_version, sizeof(message.agent_version), "%s", ECHION_VERSION);
    message.pid = static_cast<std::uint32_t>(getpid());
    message.pointer_bytes = sizeof(void*);
    return send(message, control::MessageType::kHello);
}

Result<control::Armed> Channel::arm(std::uint32_t sampler_tid, const GuestFacts& facts, int signal,
                                    const void* snapshot_layout, std::size_t layout_bytes) {
    control::Arm request{};
    request.sampler_tid = sampler_tid;
    request.io_tid = facts.io_tid;
    std::copy(facts.helper_tids.begin(), facts.helper_tids.end(), request.helper_tids);
    request.signal = signal;
    if (layout_bytes != sizeof(request.snapshot_layout)) {
        return fail(ErrorKind::kProtocol, "a snapshot layout of another size");
    }
    std::memcpy(request.snapshot_layout, snapshot_layout, layout_bytes);
    if (auto status = send(request, control::MessageType::kArm); !status) {
        return tl::unexpected(status.error());
    }
    control::Armed answer{};
    ssize_t size = 0;
    do {
        size = receive_packet(socket_.get(), &answer, sizeof(answer), 0);
    } while (size < 0 && errno == EINTR);
    control::Stop stop{};
    static_assert(sizeof(stop) <= sizeof(answer));
    std::memcpy(&stop, &answer, sizeof(stop));
    if (size > 0 && is_message(stop, static_cast<std::size_t>(size), control::MessageType::kStop)) {
        was_told_to_stop_ = true;  // it crossed the request
        return fail(ErrorKind::kNotReady, "told to stop before the ticks began");
    }
    if (size <= 0 ||
        !is_message(answer, static_cast<std::size_t>(size), control::MessageType::kArmed)) {
        return fail(ErrorKind::kProtocol, "receive the answer about ticks");
    }
    return answer;
}

Status Channel::signal_arrivals(int signal, pid_t tid) {
    if (!is_socket(socket_.get(), id_)) {
        return fail(ErrorKind::kProtocol, "the target has closed the control channel");
    }
    const int fd = socket_.get();
    const f_owner_ex owner{F_OWNER_TID, tid};
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETSIG, signal) != 0 || fcntl(fd, F_SETOWN_EX, &owner) != 0 ||
        fcntl(fd, F_SETFL, flags | O_ASYNC) != 0) {
        return fail(ErrorKind::kSystem, "be told of what arrives", errno);
    }
    return {};
}

void Channel::send_started(std::uint32_t python_version, std::uint32_t sampler_tid,
                           std::int32_t raised_by) {
    control::Started message{};
    message.python_version = python_version;
    message.sampler_tid = sampler_tid;
    message.shares_table = has_own_table_ ? 0 : 1;
    message.raised_by = raised_by;
    (void)send(message, control::MessageType::kStarted);
}

void Channel::send_failed(const Error& error) {
    control::Failed message{};
    message.error_kind = static_cast<std::uint32_t>(error.kind);
    message.system_errno = error.system_errno;
    std::snprintf(message.what, sizeof(message.what), "%s", error.what);
    (void)send(message, control::MessageType::kFailed);
}

void Channel::send_stopped() {
    control::Stopped message{};
    (void)send(message, control::MessageType::kStopped);
}

Result<control::Configure> Channel::receive_configure() {
    control::Configure message{};
    alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int) * control::kMaxFds)];
    iovec data{&message, sizeof(message)};
    msghdr packet{};
    packet.msg_iov = &data;
    packet.msg_iovlen = 1;
    packet.msg_control = ancillary;
    packet.msg_controllen = sizeof(ancillary);
    ssize_t size = 0;
    do {
        size = recvmsg(socket_.get(), &packet, MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    if (size < 0 && is_refusal(errno)) {
        // The other side takes no word before it has sent its own; and would not see this one if it
        // were closed upon with its own unread.
        const Error refusal{ErrorKind::kRefused, errno, "receive the configuration: recvmsg"};
        (void)recv(socket_.get(), &message, sizeof(message), 0);
        return tl::unexpected(refusal);
    }
    std::size_t fd_count = 0;
    for (cmsghdr* part = size >= 0 ? CMSG_FIRSTHDR(&packet) : nullptr; part != nullptr;
         part = CMSG_NXTHDR(&packet, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count && fd_count < fds_.size(); ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
            fds_[fd_count++] = move_up(UniqueFd(fd), has_own_table_);
        }
    }
    if (size <= 0 ||
        !is_message(message, static_cast<std::size_t>(size), control::MessageType::kConfigure) ||
        message.fd_count != fd_count || (packet.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
        return fail(ErrorKind::kProtocol, "receive the configuration");
    }
    return message;
}

int Channel::find_fd(const control::Configure& configure, control::FdKind kind) const {
    for (std::size_t i = 0; i < configure.fd_count && i < fds_.size(); ++i) {
        if (configure.fd_kinds[i] == kind) {
            return fds_[i].get();
        }
    }
    return -1;
}

void Channel::close_received() {
    for (UniqueFd& fd : fds_) {
        fd.reset();
    }
}

bool Channel::wait_for_stop(std::int64_t timeout_ns) {
    // What has the number now is not waited for: a negative one is passed over.
    pollfd entry{was_lost_ ? -1 : socket_.get(), POLLIN, 0};
    const timespec timeout = make_timespec(timeout_ns > 0 ? timeout_ns : 0);
    const int ready = ppoll(&entry, 1, &timeout, nullptr);
    if (ready == 0 || (ready < 0 && errno == EINTR)) {
        return false;
    }
    if (ready < 0 && !sleep_for(timeout)) {
        cannot_wait_ = true;  // ppoll is refused (seccomp), and so is this
        return true;
    }
    if (is_lost()) {
        was_lost_ = true;
        return false;
    }
    control::Stop message{};
    const ssize_t size = receive_packet(socket_.get(), &message, sizeof(message), MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
        return false;
    }
    // An empty read is a hang-up. There is no other message that the agent expects here, so that
    // whatever has come, it is the end.
    was_told_to_stop_ = size > 0 && is_message(message, static_cast<std::size_t>(size),
                                               control::MessageType::kStop);
    return true;
}

bool Channel::has_hung_up() const {
    pollfd entry{socket_.get(), 0, 0};
    return !is_socket(socket_.get(), id_) ||
           (poll(&entry, 1, 0) == 1 && (entry.revents & POLLHUP) != 0);
}

}  // namespace echion::agent
