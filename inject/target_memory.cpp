#include "inject/target_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/unique_fd.h"

namespace echion::inject {

Status write_target(pid_t pid, Address to, std::span<const std::byte> bytes) {
    const iovec local{const_cast<std::byte*>(bytes.data()), bytes.size()};
    const iovec remote{reinterpret_cast<void*>(to.value()), bytes.size()};
    const ssize_t written = process_vm_writev(pid, &local, 1, &remote, 1, 0);
    if (written == static_cast<ssize_t>(bytes.size())) {
        return {};
    }
    if (written < 0 && (errno == ENOSYS || errno == EPERM)) {
        const std::string path = "/proc/" + std::to_string(pid) + "/mem";
        const UniqueFd memory(open(path.c_str(), O_WRONLY | O_CLOEXEC));
        if (memory &&
            pwrite(memory.get(), bytes.data(), bytes.size(), static_cast<off_t>(to.value())) ==
                static_cast<ssize_t>(bytes.size())) {
            return {};
        }
    }
    return fail(ErrorKind::kUnreadable, "write the target's memory", written < 0 ? errno : EFAULT);
}

}  // namespace echion::inject
