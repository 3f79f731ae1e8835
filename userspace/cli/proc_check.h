#pragma once

#include <string>

namespace echion::cli {

/// Whom echion is to look at, by number or as its own child.
enum class Looks { kAtOwnChild, kAtAnyProcess };

/// Why /proc cannot serve, with the way out: it is not mounted (a chroot), or shows the processes
/// of another PID namespace. Empty when all is well.
std::string explain_unusable_proc(Looks looks);

}  // namespace echion::cli
