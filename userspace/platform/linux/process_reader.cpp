#include "platform/process_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace echion {
namespace {

// Vectors handed to one process_vm_readv. The kernel takes up to UIO_MAXIOV (1024); above
// UIO_FASTIOV (8) it allocates its own array, which costs little beside the copy.
constexpr std::size_t kMaxVectors = 256;

/// What tells a file from another one under the same number. By number, as fstat() would bind the
/// agent to a recent C library.
struct FileId {
    explicit FileId(int fd) {
        struct statx status {};
        if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_INO, &status) == 0) {
            inode = status.stx_ino;
            device = std::uint64_t{status.stx_dev_major} << 32 | status.stx_dev_minor;
        }
    }
    bool operator==(const FileId&) const = default;

    std::uint64_t inode = 0;
    std::uint64_t device = 0;
};

}  // namespace

const char* ProcessReader::method() const {
    switch (way_) {
        case Way::kWriteOwn:
            return "process_vm_writev";
        case Way::kRead:
            return "process_vm_readv";
        case Way::kMemFile:
            break;
    }
    return "/proc/PID/mem";
}

Status ProcessReader::open(pid_t pid, Address probe) {
    is_own_ = pid == getpid();
    // By the thread's own number: that of the process belongs to its first thread, which may leave
    // before the others, and takes with it what is reached through it.
    pid_ = is_own_ ? static_cast<pid_t>(syscall(SYS_gettid)) : pid;
    mem_fd_.reset();
    way_ = is_own_ ? Way::kWriteOwn : Way::kRead;
    is_refused_ = false;
    std::byte byte;
    if (probe.is_null() || read_bytes(probe, &byte, 1)) {
        return {};
    }
    return fail(ErrorKind::kRefused, "neither process_vm_readv nor /proc/PID/mem may be read",
                errno);
}

Status ProcessReader::open_own() {
    const int probe = 0;
    return open(getpid(), Address(reinterpret_cast<std::uintptr_t>(&probe)));
}

bool ProcessReader::take_next_way() {
    if (way_ == Way::kWriteOwn) {
        way_ = Way::kRead;
        return true;
    }
    if (way_ == Way::kMemFile) {
        return false;
    }
    way_ = Way::kMemFile;
    UniqueFd file = open_mem_file();
    const bool is_open = static_cast<bool>(file);
    if (!is_own_) {
        mem_fd_ = std::move(file);
    }
    return is_open;
}

UniqueFd ProcessReader::open_mem_file() {
    char path[40];
    std::snprintf(path, sizeof(path), "/proc/%d/mem", static_cast<int>(pid_));
    ++system_calls_;
    return UniqueFd(::open(is_own_ ? "/proc/thread-self/mem" : path, O_RDONLY | O_CLOEXEC));
}

std::size_t ProcessReader::read(std::span<const ReadRequest> requests) noexcept {
    // Direct ranges are copied in their turn, so that a caller's order of requests is the order of
    // the copies: what it reads before and after something else really brackets it.
    std::size_t done = 0;
    while (done < requests.size()) {
        if (is_direct(requests[done])) {
            const ReadRequest& request = requests[done];
            std::atomic_thread_fence(std::memory_order_acquire);
            std::memcpy(request.into, reinterpret_cast<const void*>(request.from.value()),
                        request.size_bytes);
            std::atomic_thread_fence(std::memory_order_acquire);
            ++done;
            continue;
        }
        std::size_t end = done + 1;
        while (end < requests.size() && !is_direct(requests[end])) {
            ++end;
        }
        const std::size_t copied = read_by_system_call(requests.subspan(done, end - done));
        done += copied;
        if (done != end) {
            return done;
        }
    }
    return done;
}

std::size_t ProcessReader::read_by_system_call(std::span<const ReadRequest> requests) noexcept {
    std::size_t done = 0;
    while (done < requests.size()) {
        const std::size_t count = std::min(requests.size() - done, kMaxVectors);
        const auto part = requests.subspan(done, count);
        std::size_t copied = read_part(part);
        // Also in the middle: a program may lock itself up (seccomp) after it has started.
        while (copied == 0 && (errno == EPERM || errno == ENOSYS)) {
            if (!take_next_way()) {
                is_refused_ = true;
                break;
            }
            copied = read_part(part);
        }
        done += copied;
        if (copied != count) {
            break;
        }
    }
    return done;
}

std::size_t ProcessReader::read_part(std::span<const ReadRequest> requests) noexcept {
    if (way_ == Way::kMemFile) {
        return read_mem_file(requests);
    }
    if (way_ == Way::kWriteOwn) {
        const std::size_t copied = read_vectors(SYS_process_vm_writev, requests);
        // One address that no process can have fails it as a whole (lib/iov_iter.c, access_ok).
        if (copied != 0 || errno != EFAULT || requests.size() == 1) {
            return copied;
        }
    }
    return read_vectors(SYS_process_vm_readv, requests);
}

std::size_t ProcessReader::read_vectors(long system_call,
                                        std::span<const ReadRequest> requests) noexcept {
    iovec into[kMaxVectors];
    iovec from[kMaxVectors];
    std::size_t into_count = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        from[i] = {reinterpret_cast<void*>(requests[i].from.value()), requests[i].size_bytes};
        // Buffers that follow each other are one vector for the kernel.
        if (into_count > 0 &&
            static_cast<std::byte*>(into[into_count - 1].iov_base) + into[into_count - 1].iov_len ==
                requests[i].into) {
            into[into_count - 1].iov_len += requests[i].size_bytes;
        } else {
            into[into_count++] = {requests[i].into, requests[i].size_bytes};
        }
    }
    ++system_calls_;
    errno = 0;  // what it says afterwards is of this call, also when that has copied a part
    // By number: the agent binds to as few symbols of the target's C library as it can.
    const long got = system_call == SYS_process_vm_writev
                         ? syscall(system_call, pid_, from, requests.size(), into, into_count, 0UL)
                         : syscall(system_call, pid_, into, into_count, from, requests.size(), 0UL);
    // Nothing is there to be copied of an empty range, and so it is complete.
    std::size_t left = got > 0 ? static_cast<std::size_t>(got) : 0;
    std::size_t complete = 0;
    while (complete < requests.size() && left >= requests[complete].size_bytes) {
        left -= requests[complete].size_bytes;
        ++complete;
    }
    return complete;
}

std::size_t ProcessReader::read_mem_file(std::span<const ReadRequest> requests) noexcept {
    if (!is_own_) {
        return read_open_file(mem_fd_.get(), requests);
    }
    UniqueFd own = open_mem_file();
    if (!own) {
        return 0;
    }
    const FileId id(own.get());
    const std::size_t done = read_open_file(own.get(), requests);
    const int saved_errno = errno;
    system_calls_ += 3;
    if (FileId(own.get()) != id) {
        (void)own.release();
    }
    own.reset();
    errno = saved_errno;
    return done;
}

std::size_t ProcessReader::read_open_file(int fd, std::span<const ReadRequest> requests) noexcept {
    std::size_t done = 0;
    for (const ReadRequest& request : requests) {
        ++system_calls_;
        const ssize_t got = pread64(fd, request.into, request.size_bytes,
                                    static_cast<off64_t>(request.from.value()));
        if (got != static_cast<ssize_t>(request.size_bytes)) {
            break;
        }
        ++done;
    }
    return done;
}

}  // namespace echion
