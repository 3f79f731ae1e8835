#include "platform/event.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace echion {

Result<Event> Event::make() {
    UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) {
        return fail(ErrorKind::kSystem, "make an event (eventfd)", errno);
    }
    return Event(std::move(fd));
}

void Event::raise() const {
    const std::uint64_t one = 1;
    // Fails only when it has been raised very often already.
    (void)!::write(fd_.get(), &one, sizeof(one));
}

}  // namespace echion
