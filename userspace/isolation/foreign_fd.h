#pragma once

#include <cstddef>
#include <utility>

#include "base/unique_fd.h"

namespace echion {

/// Owner of a descriptor that another process has handed over, or of a socket into whose queue
/// another process can put descriptors. Closing it may be closing something for the last time, and
/// that can wait for as long as the other likes: for a connection that lingers over data that
/// nobody takes (SO_LINGER), for a file system that the other serves. So it is closed on a thread
/// of its own.
class ForeignFd {
  public:
    ForeignFd() = default;
    explicit ForeignFd(UniqueFd fd) : fd_(std::move(fd)) {}
    explicit ForeignFd(int fd) : fd_(fd) {}
    ForeignFd(ForeignFd&&) noexcept = default;
    ForeignFd& operator=(ForeignFd&& other) noexcept {
        reset();
        fd_ = std::move(other.fd_);
        return *this;
    }
    ~ForeignFd() { reset(); }

    [[nodiscard]] int get() const { return fd_.get(); }
    [[nodiscard]] explicit operator bool() const { return static_cast<bool>(fd_); }
    /// Has it closed. Returns at once. Where many do not come to close, the user is told, once, and
    /// the others wait for one of them to.
    void reset();
    /// How many wait in this program.
    static std::size_t count_waiting();

  private:
    UniqueFd fd_;
};

}  // namespace echion
