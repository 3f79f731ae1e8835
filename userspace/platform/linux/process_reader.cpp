#include "platform/process_reader.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace echion {
namespace {

// Vectors handed to one process_vm_readv. The kernel takes up to UIO_MAXIOV (1024); above
// UIO_FASTIOV (8) it allocates its own array, which costs little beside the copy.
constexpr std::size_t kMaxVectors = 256;

}  // namespace

const char* ProcessReader::method() const { return mem_fd_ ? "/proc/PID/mem" : "process_vm_readv"; }

Status ProcessReader::open(pid_t pid, Address probe) {
    pid_ = pid;
    mem_fd_.reset();
    is_mem_tried_ = false;
    std::byte byte;
    if (probe.is_null() || read_bytes(probe, &byte, 1)) {
        return {};
    }
    return fail(ErrorKind::kRefused, "neither process_vm_readv nor /proc/PID/mem may be read",
                errno);
}

bool ProcessReader::open_mem_file() {
    if (std::exchange(is_mem_tried_, true)) {
        return false;
    }
    char path[40];
    std::snprintf(path, sizeof(path), "/proc/%d/mem", static_cast<int>(pid_));
    ++system_calls_;
    mem_fd_.reset(::open(path, O_RDONLY | O_CLOEXEC));
    return static_cast<bool>(mem_fd_);
}

std::size_t ProcessReader::read(std::span<const ReadRequest> requests) noexcept {
    // Direct ranges are copied in their turn, so that a caller's order of requests is the order of
    // the copies: what it reads before and after something else really brackets it.
    std::size_t done = 0;
    while (done < requests.size()) {
        if (is_direct(requests[done])) {
            const ReadRequest& request = requests[done];
            asm volatile("" ::: "memory");
            std::memcpy(request.into, reinterpret_cast<const void*>(request.from.value()),
                        request.size_bytes);
            asm volatile("" ::: "memory");
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
        std::size_t copied = mem_fd_ ? read_mem_file(part) : read_vectors(part);
        // Also in the middle: a program may lock itself up (seccomp) after it has started.
        if (copied == 0 && !mem_fd_ && (errno == EPERM || errno == ENOSYS) && open_mem_file()) {
            copied = read_mem_file(part);
        }
        done += copied;
        if (copied != count) {
            break;
        }
    }
    return done;
}

std::size_t ProcessReader::read_vectors(std::span<const ReadRequest> requests) noexcept {
    iovec local[kMaxVectors];
    iovec remote[kMaxVectors];
    std::size_t local_count = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        remote[i] = {reinterpret_cast<void*>(requests[i].from.value()), requests[i].size_bytes};
        // Buffers that follow each other are one vector for the kernel.
        if (local_count > 0 && static_cast<std::byte*>(local[local_count - 1].iov_base) +
                                       local[local_count - 1].iov_len ==
                                   requests[i].into) {
            local[local_count - 1].iov_len += requests[i].size_bytes;
        } else {
            local[local_count++] = {requests[i].into, requests[i].size_bytes};
        }
    }
    ++system_calls_;
    // By number: the agent binds to as few symbols of the target's C library as it can.
    const long got =
        syscall(SYS_process_vm_readv, pid_, local, local_count, remote, requests.size(), 0UL);
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
    std::size_t done = 0;
    for (const ReadRequest& request : requests) {
        ++system_calls_;
        const ssize_t got = pread64(mem_fd_.get(), request.into, request.size_bytes,
                                    static_cast<off64_t>(request.from.value()));
        if (got != static_cast<ssize_t>(request.size_bytes)) {
            break;
        }
        ++done;
    }
    return done;
}

}  // namespace echion
