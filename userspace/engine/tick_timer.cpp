#include "engine/tick_timer.h"

namespace echion::engine {

bool TickTimer::give_up(const char* what, int system_errno) {
    status_ = fail(ErrorKind::kRefused, what, system_errno);
    return false;
}

}  // namespace echion::engine
