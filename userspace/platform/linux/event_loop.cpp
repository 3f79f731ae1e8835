#include "platform/event_loop.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <span>
#include <utility>

#include "base/clock.h"

namespace echion {

Result<EventLoop> EventLoop::make() {
    UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) {
        return fail(ErrorKind::kSystem, "wait for events (epoll_create1)", errno);
    }
    return EventLoop(std::move(epoll));
}

Result<EventLoop::Source> EventLoop::add(int fd, Handler handler) {
    const Source source = next_source_++;
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = source;
    if (epoll_ctl(queue_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        return fail(ErrorKind::kSystem, "wait for events (epoll_ctl)", errno);
    }
    entries_.emplace(source, std::make_shared<Entry>(Entry{fd, std::move(handler)}));
    return source;
}

void EventLoop::remove(Source source) {
    if (const auto found = entries_.find(source); found != entries_.end()) {
        epoll_ctl(queue_.get(), EPOLL_CTL_DEL, found->second->fd, nullptr);
        entries_.erase(found);
    }
}

Status EventLoop::run() {
    std::array<epoll_event, 32> events;
    while (!stopped_) {
        const int count =
            epoll_wait(queue_.get(), events.data(), static_cast<int>(events.size()), -1);
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail(ErrorKind::kSystem, "wait for events (epoll_wait)", errno);
        }
        for (const epoll_event& event : std::span(events).first(static_cast<std::size_t>(count))) {
            if (const auto found = entries_.find(event.data.u64); found != entries_.end()) {
                // A handler may remove itself: it must live until it returns.
                const std::shared_ptr<Entry> entry = found->second;
                entry->handler();
            }
        }
    }
    return {};
}

Result<Timer> Timer::make(EventLoop& loop, EventLoop::Handler handler) {
    UniqueFd fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!fd) {
        return fail(ErrorKind::kSystem, "make a timer (timerfd_create)", errno);
    }
    const int number = fd.get();
    Timer timer(loop, std::move(fd));
    auto source = loop.add(number, [number, run = std::move(handler)] {
        std::uint64_t expirations = 0;
        if (read(number, &expirations, sizeof(expirations)) ==
            static_cast<ssize_t>(sizeof(expirations))) {
            run();
        }
    });
    if (!source) {
        return tl::unexpected(source.error());
    }
    timer.source_ = *source;
    return timer;
}

Timer::~Timer() {
    if (fd_) {
        loop_->remove(source_);
    }
}

void Timer::arm(std::uint64_t delay_ns) {
    itimerspec when{};
    // Zero would disarm it.
    when.it_value = make_timespec(static_cast<std::int64_t>(delay_ns == 0 ? 1 : delay_ns));
    timerfd_settime(fd_.get(), 0, &when, nullptr);
}

void Timer::disarm() {
    const itimerspec never{};
    timerfd_settime(fd_.get(), 0, &never, nullptr);
}

sigset_t with_failed_writes(std::span<const int> signals) {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : signals) {
        sigaddset(&set, number);
    }
    sigaddset(&set, SIGPIPE);
    sigaddset(&set, SIGXFSZ);
    return set;
}

Result<Signals> Signals::make(EventLoop& loop, const sigset_t& signals, Handler handler) {
    sigset_t original;
    if (sigprocmask(SIG_BLOCK, &signals, &original) != 0) {
        return fail(ErrorKind::kSystem, "block signals", errno);
    }
    UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd) {
        return fail(ErrorKind::kSystem, "receive signals (signalfd)", errno);
    }
    const int number = fd.get();
    Signals result(loop, std::move(fd), original);
    auto source = loop.add(number, [number, run = std::move(handler)] {
        signalfd_siginfo info{};
        while (read(number, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
            run({static_cast<int>(info.ssi_signo), info.ssi_code == SI_KERNEL});
        }
    });
    if (!source) {
        return tl::unexpected(source.error());
    }
    result.source_ = *source;
    return result;
}

Signals::~Signals() {
    if (fd_) {
        loop_->remove(source_);
    }
}

}  // namespace echion
