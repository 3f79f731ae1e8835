#include "agent/channel.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "agent/descriptors.h"
#include "base/clock.h"
#include "platform/message_socket.h"

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
    auto sockets = make_message_sockets();
    if (!sockets) {
        return tl::unexpected(sockets.error());
    }
    UniqueFd own = move_up(std::move(sockets->one), has_own_table);
    const int other = sockets->other.get();
    control::Connect message{};
    fill_header(message, control::MessageType::kConnect);
    // Where many programs begin at a time, their packets may fill the queue for a moment. Meanwhile
    // the program may give the number to a socket of its own.
    const std::int64_t deadline_ns = monotonic_ns() + kQueueNs;
    for (;;) {
        if (!is_there()) {
            return fail(ErrorKind::kSystem, "send the control channel", EBADF);
        }
        if (send_message(fd_, &message, sizeof(message), {&other, 1})) {
            return own;
        }
        const int cause = errno;
        const std::int64_t left_ns = deadline_ns - monotonic_ns();
        if (cause != EINTR && (cause != EAGAIN || left_ns <= 0 ||
                               (poll_descriptor(fd_, POLLOUT, left_ns) < 0 && errno != EINTR))) {
            return fail(ErrorKind::kSystem, "send the control channel", cause);
        }
    }
}

bool Rendezvous::is_abandoned(std::int64_t timeout_ns) const {
    if (!is_there()) {
        return false;
    }
    const int state = poll_descriptor(fd_, 0, timeout_ns);  // a hang-up is told unasked
    return state > 0 && (state & POLLHUP) != 0;
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
    if (!send_message(socket_.get(), &message, sizeof(message))) {
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
        size = receive_text(socket_.get(), &answer, sizeof(answer), true);
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
    return echion::signal_arrivals(socket_.get(), signal, tid);
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
    std::array<int, control::kMaxFds> fds;
    const auto received =
        receive_message(socket_.get(), std::as_writable_bytes(std::span(&message, 1)), fds, true);
    if (!received && is_refusal(received.error().system_errno)) {
        // The other side takes no word before it has sent its own; and would not see this one if it
        // were closed upon with its own unread.
        (void)receive_text(socket_.get(), &message, sizeof(message), true);
        return fail(ErrorKind::kRefused, "receive the configuration: recvmsg",
                    received.error().system_errno);
    }
    for (std::size_t i = 0; received && i < received->fd_count; ++i) {
        fds_[i] = move_up(UniqueFd(fds[i]), has_own_table_);
    }
    if (!received || !is_message(message, received->size_bytes, control::MessageType::kConfigure) ||
        message.fd_count != received->fd_count || received->text_is_cut || received->fds_are_cut) {
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
    const std::int64_t patience_ns = std::max<std::int64_t>(timeout_ns, 0);
    const int ready = poll_descriptor(was_lost_ ? -1 : socket_.get(), POLLIN, patience_ns);
    if (ready == 0 || (ready < 0 && errno == EINTR)) {
        return false;
    }
    if (ready < 0 && !sleep_for(make_timespec(patience_ns))) {
        cannot_wait_ = true;  // poll is refused (seccomp), and so is this
        return true;
    }
    if (is_lost()) {
        was_lost_ = true;
        return false;
    }
    control::Stop message{};
    const ssize_t size = receive_text(socket_.get(), &message, sizeof(message), false);
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
