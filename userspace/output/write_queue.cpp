#include "output/write_queue.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "platform/event.h"

namespace echion::output {
namespace {

/// In one call, so that progress shows on a slow disk.
constexpr std::size_t kMaxWriteBytes = std::size_t{128} << 10;

}  // namespace

std::size_t Chunk::find_end(std::size_t from, std::size_t to) const {
    if (record_ends == RecordEnds::kLines) {
        const std::size_t end = std::string_view(bytes.get() + from, to - from).rfind('\n');
        return end == std::string_view::npos ? from : from + end + 1;
    }
    const auto behind = std::ranges::upper_bound(marks, to);
    return behind == marks.begin() ? from : std::max(from, *(behind - 1));
}

struct WriteQueue::State {
    State(UniqueFd file, Begin how) : fd(std::move(file)), begin(how) {
        for (Event* event : {&ended_event, &give_up_event}) {
            if (auto made = Event::make()) {
                *event = std::move(*made);
            } else {
                fail(made.error().system_errno);
            }
        }
    }

    UniqueFd fd;
    const Begin begin;
    Event ended_event;
    Event give_up_event;
    std::atomic<std::uint64_t> waiting_bytes{0};
    std::atomic<std::uint64_t> written_bytes{0};
    std::atomic<int> failure{0};
    std::atomic<bool> given_up{false};
    std::atomic<bool> vanished{false};
    std::uint64_t left_bytes = 0;   // the owner's
    std::uint64_t whole_bytes = 0;  // up to the end of a record; the thread's
    std::atomic<std::uint64_t> cut_bytes{0};

    std::mutex mutex;
    std::condition_variable changed;
    // Under the mutex.
    std::deque<Chunk> chunks;
    bool is_running = false;
    bool is_finished = false;
    bool has_ended = false;

    void fail(int error) {
        int none = 0;
        failure.compare_exchange_strong(none, error);
    }
    [[nodiscard]] bool goes_on() const { return failure == 0 && !given_up; }

    /// Waits until a pipe has room; false when that is given up.
    bool wait_for_room() {
        pollfd entries[] = {{fd.get(), POLLOUT, 0}, {give_up_event.fd(), POLLIN, 0}};
        while (poll(entries, 2, -1) < 0 && errno == EINTR) {
        }
        return entries[1].revents == 0;
    }

    /// What was written of a record before a failure could be taken for a whole one: a line with a
    /// metric that lacks its last digits.
    void cut_back() {
        const std::uint64_t written = written_bytes;
        struct stat info {};
        if (begin != Begin::kWhereItStands && written > whole_bytes &&
            fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) &&
            ftruncate(fd.get(), static_cast<off_t>(whole_bytes)) == 0) {
            cut_bytes = written - whole_bytes;
        }
    }

    void write_out(const Chunk& chunk) {
        for (std::size_t at = 0; at < chunk.size && goes_on();) {
            // Whole records, if it holds the end of one. A process that is killed ends its call
            // first, but where the kernel copies many pages.
            const std::size_t most = std::min(chunk.size, at + kMaxWriteBytes);
            const std::size_t end = chunk.find_end(at, most);
            const ssize_t count =
                ::write(fd.get(), chunk.bytes.get() + at, (end == at ? most : end) - at);
            if (count >= 0) {
                const std::size_t next = at + static_cast<std::size_t>(count);
                if (const std::size_t whole = chunk.find_end(at, next); whole != at) {
                    // Before written_bytes tells of it.
                    whole_bytes = written_bytes + (whole - at);
                }
                at = next;
                written_bytes += static_cast<std::uint64_t>(count);
                waiting_bytes -= static_cast<std::uint64_t>(count);
            } else if (errno == EAGAIN) {
                if (!wait_for_room()) {
                    return;
                }
            } else if (errno != EINTR) {
                fail(errno);
            }
        }
    }

    void close_file() {
        struct stat info {};
        vanished = begin == Begin::kEmpty && fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) &&
                   info.st_nlink == 0;
        // Some file systems (NFS, quotas) report what went wrong only here.
        if (::close(fd.release()) != 0 && errno != EINTR) {
            fail(errno);
        }
    }

    void end() {
        const std::lock_guard lock(mutex);
        has_ended = true;
        changed.notify_all();
        ended_event.raise();
    }
};

void WriteQueue::run(const std::shared_ptr<State>& state) {
    // Fails on what is no regular file, and does not matter there.
    if (state->begin != Begin::kWhereItStands && ftruncate(state->fd.get(), 0) != 0 &&
        errno != EINVAL) {
        state->fail(errno);
    }
    for (;;) {
        Chunk chunk;
        {
            std::unique_lock lock(state->mutex);
            state->changed.wait(lock, [&] {
                return !state->chunks.empty() || state->is_finished || state->given_up;
            });
            if (state->chunks.empty() || state->given_up) {
                break;
            }
            chunk = std::move(state->chunks.front());
            state->chunks.pop_front();
        }
        const std::uint64_t before = state->written_bytes;
        state->write_out(chunk);
        if (!state->given_up) {
            state->waiting_bytes -= chunk.size - (state->written_bytes - before);  // of a failure
        }
    }
    if (!state->goes_on()) {
        state->cut_back();
    }
    state->close_file();
    state->end();
}

WriteQueue::WriteQueue(UniqueFd fd, Begin begin)
    : state_(std::make_shared<State>(std::move(fd), begin)) {}
WriteQueue::WriteQueue(WriteQueue&&) noexcept = default;
WriteQueue& WriteQueue::operator=(WriteQueue&&) noexcept = default;

WriteQueue::~WriteQueue() {
    if (state_) {
        give_up();
    }
}

void WriteQueue::push(Chunk chunk) {
    if (!state_->goes_on() || chunk.size == 0) {
        return;
    }
    state_->waiting_bytes += chunk.size;
    const std::lock_guard lock(state_->mutex);
    state_->chunks.push_back(std::move(chunk));
    state_->changed.notify_all();
    if (std::exchange(state_->is_running, true)) {
        return;
    }
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        std::thread([state = state_] { run(state); }).detach();
    } catch (const std::system_error& error) {
        state_->fail(error.code().value());
        state_->is_running = false;
        state_->waiting_bytes = 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void WriteQueue::finish() {
    {
        const std::lock_guard lock(state_->mutex);
        state_->is_finished = true;
        state_->changed.notify_all();
        if (state_->is_running) {
            return;
        }
    }
    if (!has_ended()) {
        state_->close_file();  // nothing was ever written to it
        state_->end();
    }
}

bool WriteQueue::has_ended() const {
    const std::lock_guard lock(state_->mutex);
    return state_->has_ended || state_->given_up;
}

int WriteQueue::ended_fd() const { return state_->ended_event.fd(); }

void WriteQueue::wait() const {
    std::unique_lock lock(state_->mutex);
    state_->changed.wait(lock, [&] { return state_->has_ended || state_->given_up; });
}

void WriteQueue::give_up() {
    const std::lock_guard lock(state_->mutex);
    if (state_->has_ended || state_->given_up) {
        return;
    }
    state_->left_bytes = state_->waiting_bytes;
    state_->given_up = true;
    state_->changed.notify_all();
    state_->give_up_event.raise();
}

int WriteQueue::fd() const { return state_->fd.get(); }
std::uint64_t WriteQueue::waiting_bytes() const { return state_->waiting_bytes; }
std::uint64_t WriteQueue::written_bytes() const { return state_->written_bytes; }
std::uint64_t WriteQueue::kept_bytes() const { return state_->written_bytes - state_->cut_bytes; }
int WriteQueue::failure() const { return state_->failure; }
std::uint64_t WriteQueue::left_bytes() const { return state_->left_bytes; }
bool WriteQueue::was_given_up() const { return state_->given_up; }
bool WriteQueue::has_vanished() const { return state_->vanished; }

}  // namespace echion::output
