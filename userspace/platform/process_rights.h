#pragma once

#include "platform/process_info.h"

namespace echion {

/// Whether a process may do what it could not have come to do by itself: it has another user's or
/// group's identity, or capabilities that it had not. Who may change its identity at will
/// (CAP_SETUID) gains nothing by doing so. Pure.
bool has_gained_rights(const ProcessInfo& before, const ProcessInfo& now);

}  // namespace echion
