#include "agent/io_thread.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "platform/own_descriptors.h"
#include "platform/own_thread.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/thread_clock.h"

namespace echion::agent {
namespace {

// How long standard error may take nothing.
constexpr std::int64_t kPatienceNs = kNanosPerSecond;
// How long an answer may take, then.
constexpr std::int64_t kAnswerNs = 2 * kPatienceNs;
// A terminal polls as writable when it has room for one byte. Most have room for more.
constexpr std::size_t kTerminalBytes = 256;
// One that polls as writable may have too little room for what is to be written. A millisecond.
constexpr std::int64_t kNapNs = 1'000'000;

/// Calls `write_some` until it has written something, once standard error has room. What it says,
/// or a negative number.
template <typename Write>
ssize_t write_when_ready(int fd, const Write& write_some) {
    const std::int64_t deadline_ns = monotonic_ns() + kPatienceNs;
    for (;;) {
        const std::int64_t left_ns = deadline_ns - monotonic_ns();
        pollfd output{fd, POLLOUT, 0};
        const int ready =
            left_ns <= 0 ? 0 : poll(&output, 1, static_cast<int>(left_ns / kNapNs) + 1);
        if (ready == 0 || (ready < 0 && errno != EINTR)) {
            return -1;
        }
        const ssize_t written = ready > 0 ? write_some() : -1;
        if (written > 0 || (errno != EINTR && errno != EAGAIN)) {
            return written;
        }
        if (errno == EAGAIN) {
            const timespec pause = make_timespec(kNapNs);
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
        }
    }
}

}  // namespace

bool IoThread::write_error(std::string_view text) {
    const auto kind = ask(kAskKind);
    if (!kind) {
        return false;
    }
    const UniqueFd own = open_anew(*kind);
    while (!text.empty()) {
        const std::size_t most = !own && *kind == kTerminal ? kTerminalBytes : piece_.size();
        const std::string_view piece = text.substr(0, most);
        ssize_t written = 0;
        if (own) {
            written = write_when_ready(
                own.get(), [&] { return ::write(own.get(), piece.data(), piece.size()); });
        } else {
            std::memcpy(piece_.data(), piece.data(), piece.size());
            piece_bytes_ = piece.size();
            written = ask(kWrite).value_or(-1);
        }
        if (written <= 0) {
            return false;
        }
        text.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

/// A pipe or a terminal that is standard error, under a description of its own; none if it is
/// something else or may not be opened.
UniqueFd IoThread::open_anew(int kind) const {
    if (!has_own_table_ || (kind != kPipe && kind != kTerminal)) {
        return {};
    }
    // A filter may kill whoever opens a file to write to it.
    if (const auto info = read_thread_info(kOwnProcess, tid()); !info || info->seccomp != 0) {
        return {};
    }
    UniqueFd own = open_descriptor_anew(tid(), STDERR_FILENO, O_WRONLY | O_NONBLOCK | O_NOCTTY);
    struct stat status {};
    // The program may have put another file in its place meanwhile.
    const bool is_same =
        own && (kind == kTerminal ? isatty(own.get()) != 0
                                  : fstat(own.get(), &status) == 0 && S_ISFIFO(status.st_mode));
    return is_same ? std::move(own) : UniqueFd();
}

/// The thread's answer; none if it does not come in time, or an earlier one has not come yet.
std::optional<int> IoThread::ask(Request request) {
    if (request_.load() != kNone) {
        return std::nullopt;
    }
    set_and_wake(request_, request);
    if (!wait_while(request_, request, kAnswerNs)) {
        return std::nullopt;
    }
    return answer_;
}

void IoThread::end() {
    settle();
    set_and_wake(request_, kEnd);
}

std::int64_t IoThread::cpu_ns() const {
    const pid_t tid = tid_.load();
    return tid == 0 ? 0 : read_clock_ns(thread_cpu_clock(static_cast<std::uint32_t>(tid)));
}

void IoThread::begin() {
    thread_id_.store(reinterpret_cast<std::uintptr_t>(pthread_self()));
    tid_.store(static_cast<pid_t>(own_thread_id()));
}

int IoThread::find_kind() {
    struct stat status {};
    kind_ = fstat(STDERR_FILENO, &status) != 0 ? kUnknown
            : S_ISSOCK(status.st_mode)         ? kSocket
            : S_ISFIFO(status.st_mode)         ? kPipe
            : isatty(STDERR_FILENO) != 0       ? kTerminal
                                               : kFile;
    return kind_;
}

/// Bytes written, or a negative number.
int IoThread::write_piece() const {
    return static_cast<int>(write_when_ready(STDERR_FILENO, [this] {
        return kind_ == kSocket
                   ? ::send(STDERR_FILENO, piece_.data(), piece_bytes_, MSG_DONTWAIT | MSG_NOSIGNAL)
                   : ::write(STDERR_FILENO, piece_.data(), piece_bytes_);
    }));
}

void IoThread::serve() {
    for (;;) {
        wait_while(request_, kNone);
        std::uint32_t request = request_.load();
        switch (request) {
            case kWrite:
                answer_ = write_piece();
                break;
            case kAskKind:
                answer_ = find_kind();
                break;
            default:
                return;
        }
        // Not if it has been told to end meanwhile.
        if (request_.compare_exchange_strong(request, kNone)) {
            wake_all(request_);
        }
    }
}

}  // namespace echion::agent
