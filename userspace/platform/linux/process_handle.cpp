#include "platform/process_handle.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace echion {

Result<UniqueFd> open_process(pid_t pid) {
    UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!process) {
        return fail(ErrorKind::kSystem, "find the process (pidfd_open)", errno);
    }
    return process;
}

}  // namespace echion
