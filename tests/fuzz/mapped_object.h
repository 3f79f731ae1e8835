#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/unique_fd.h"
#include "fuzz_support.h"
#include "memory/reader.h"

namespace echion::fuzz {

/// A file of kBytes bytes that this process has mapped as if it were a shared object, so that its
/// memory map lists it. What it holds is written anew for each input.
class MappedObject {
  public:
    static constexpr std::size_t kBytes = std::size_t{64} << 10;

    MappedObject() : fd_(memfd_create("object", MFD_CLOEXEC)) {
        require(fd_ && ftruncate(fd_.get(), kBytes) == 0);
        void* place = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
        require(place != MAP_FAILED);
        bytes_ = static_cast<std::uint8_t*>(place);
    }

    [[nodiscard]] std::uintptr_t base() const { return reinterpret_cast<std::uintptr_t>(bytes_); }
    [[nodiscard]] std::span<std::uint8_t> bytes() { return {bytes_, kBytes}; }
    [[nodiscard]] int fd() const { return fd_.get(); }

    /// Fills it from `from` on, and zeroes what is left.
    void fill(std::size_t from, std::span<const std::uint8_t> content) {
        const std::size_t size = std::min(content.size(), kBytes - from);
        std::copy_n(content.begin(), size, bytes_ + from);
        std::memset(bytes_ + from + size, 0, kBytes - from - size);
    }

  private:
    UniqueFd fd_;
    std::uint8_t* bytes_ = nullptr;
};

}  // namespace echion::fuzz
