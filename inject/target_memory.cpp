#include "inject/target_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace echion::inject {

Result<TargetMemory> TargetMemory::open(pid_t pid, StallGuard* guard) {
    const std::string path = "/proc/" + std::to_string(pid) + "/mem";
    UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!file && errno != EACCES) {
        return fail(ErrorKind::kSystem, "open the target's memory", errno);
    }
    return TargetMemory(pid, std::move(file), guard);
}

ssize_t TargetMemory::read_part(const ReadRequest& request) const {
    if (file_) {
        return pread(file_.get(), request.into, request.size_bytes,
                     static_cast<off_t>(request.from.value()));
    }
    const iovec local{request.into, request.size_bytes};
    const iovec remote{reinterpret_cast<void*>(request.from.value()), request.size_bytes};
    return process_vm_readv(pid_, &local, 1, &remote, 1, 0);
}

ssize_t TargetMemory::write_part(Address to, std::span<const std::byte> bytes) const {
    if (file_) {
        return pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(to.value()));
    }
    const iovec local{const_cast<std::byte*>(bytes.data()), bytes.size()};
    const iovec remote{reinterpret_cast<void*>(to.value()), bytes.size()};
    return process_vm_writev(pid_, &local, 1, &remote, 1, 0);
}

std::size_t TargetMemory::read(std::span<const ReadRequest> requests) noexcept {
    const StallGuard::Section section(guard_, kStalledReadNs);
    std::size_t done = 0;
    for (const ReadRequest& request : requests) {
        if (read_part(request) != static_cast<ssize_t>(request.size_bytes)) {
            break;
        }
        ++done;
    }
    return done;
}

Status TargetMemory::write(Address to, std::span<const std::byte> bytes) {
    const StallGuard::Section section(guard_, kStalledReadNs);
    const ssize_t written = write_part(to, bytes);
    if (written == static_cast<ssize_t>(bytes.size())) {
        return {};
    }
    return fail(ErrorKind::kUnreadable, "write the target's memory", written < 0 ? errno : EIO);
}

bool TargetMemory::is_alive(Address address) {
    std::byte byte;
    return static_cast<bool>(read_bytes(address, &byte, sizeof(byte)));
}

}  // namespace echion::inject
