#include "platform/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "platform/linux/memory_file.h"

namespace echion {

Result<UniqueFd> make_shared_memory(const char* name, std::size_t size_bytes,
                                    std::span<const std::byte> begins_with) {
    UniqueFd fd = make_memory_file(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (!fd) {
        return fail(ErrorKind::kSystem, "create shared memory (memfd_create)", errno);
    }
    if (ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
        return fail(ErrorKind::kSystem,
                    errno == EFBIG ? "shared memory is larger than a file may be"
                                   : "size shared memory (ftruncate)",
                    errno);
    }
    if (pwrite(fd.get(), begins_with.data(), begins_with.size(), 0) !=
        static_cast<ssize_t>(begins_with.size())) {
        return fail(ErrorKind::kSystem, "write to shared memory", errno);
    }
    if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return fail(ErrorKind::kSystem, "seal shared memory", errno);
    }
    return fd;
}

Result<std::size_t> check_shared_memory(int fd, std::span<std::byte> begins_with) {
    // Without the seal whoever made the memfd could shrink it later. F_GET_SEALS fails on anything
    // but a memfd.
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
        return fail(ErrorKind::kProtocol, "open shared memory: not a sealed memfd");
    }
    struct stat info {};
    if (fstat(fd, &info) != 0) {
        return fail(ErrorKind::kSystem, "open shared memory (fstat)", errno);
    }
    if (pread(fd, begins_with.data(), begins_with.size(), 0) !=
        static_cast<ssize_t>(begins_with.size())) {
        return fail(ErrorKind::kProtocol, "open shared memory: too short");
    }
    return static_cast<std::size_t>(info.st_size);
}

TwiceMapped::TwiceMapped(TwiceMapped&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

TwiceMapped& TwiceMapped::operator=(TwiceMapped&& other) noexcept {
    if (this != &other) {
        unmap();
        data_ = std::exchange(other.data_, nullptr);
        size_bytes_ = std::exchange(other.size_bytes_, 0);
    }
    return *this;
}

TwiceMapped::~TwiceMapped() { unmap(); }

void TwiceMapped::unmap() {
    if (data_ != nullptr) {
        munmap(data_, size_bytes_);
    }
    data_ = nullptr;
    size_bytes_ = 0;
}

Result<TwiceMapped> TwiceMapped::map(int fd, std::size_t once_bytes, std::size_t twice_bytes) {
    // One reservation for all; then the parts over it.
    const std::size_t size_bytes = once_bytes + 2 * twice_bytes;
    void* reserved =
        mmap(nullptr, size_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map shared memory (reserve)", errno);
    }
    TwiceMapped mapping;
    mapping.data_ = static_cast<std::byte*>(reserved);
    mapping.size_bytes_ = size_bytes;
    void* first = mmap(reserved, once_bytes + twice_bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED, fd, 0);
    if (first == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map shared memory", errno);
    }
    void* second =
        mmap(mapping.data_ + once_bytes + twice_bytes, twice_bytes, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(once_bytes));
    if (second == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map shared memory (second image)", errno);
    }
    if (madvise(reserved, size_bytes, MADV_DONTFORK) != 0) {
        return fail(ErrorKind::kSystem, "keep shared memory from forked children", errno);
    }
    return mapping;
}

}  // namespace echion
