#include "cli/proc_check.h"

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <string_view>

namespace echion::cli {

std::string explain_unusable_proc(Looks looks) {
    struct statfs info {};
    if (statfs("/proc", &info) != 0 || info.f_type != PROC_SUPER_MAGIC) {
        return "/proc is not mounted here (in a chroot or a mount namespace?), and Echion looks at "
               "processes through it: mount -t proc proc /proc";
    }
    if (looks == Looks::kAtOwnChild) {
        return "";
    }
    std::array<char, 32> number;
    const ssize_t size = readlink("/proc/self", number.data(), number.size());
    const std::string_view seen(number.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
    if (seen != std::to_string(getpid())) {
        return "/proc shows the processes of another PID namespace, in which numbers mean other "
               "processes: mount -t proc proc /proc, in a mount namespace of its own (unshare -m)";
    }
    return "";
}

}  // namespace echion::cli
