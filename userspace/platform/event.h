#pragma once

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion {

/// Something that happens once, in one thread for others that wait for descriptors.
class Event {
  public:
    /// None: raise() does nothing.
    Event() = default;
    static Result<Event> make();

    /// It has happened. Any thread; any number of calls.
    void raise() const;
    /// Polls as readable once it has happened.
    [[nodiscard]] int fd() const { return fd_.get(); }

  private:
    explicit Event(UniqueFd fd) : fd_(std::move(fd)) {}

    UniqueFd fd_;
};

}  // namespace echion
