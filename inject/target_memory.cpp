#include "inject/target_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace echion::inject {

Result<TargetMemory> TargetMemory::open(pid_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/mem";
    UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!file) {
        return fail(ErrorKind::kSystem, "open the target's memory", errno);
    }
    return TargetMemory(std::move(file));
}

std::size_t TargetMemory::read(std::span<const ReadRequest> requests) noexcept {
    std::size_t done = 0;
    for (const ReadRequest& request : requests) {
        if (pread(file_.get(), request.into, request.size_bytes,
                  static_cast<off_t>(request.from.value())) !=
            static_cast<ssize_t>(request.size_bytes)) {
            break;
        }
        ++done;
    }
    return done;
}

Status TargetMemory::write(Address to, std::span<const std::byte> bytes) {
    const ssize_t written =
        pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(to.value()));
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
