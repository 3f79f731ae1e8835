#pragma once

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <type_traits>
#include <utility>

#include "base/error.h"

namespace echion {

/// How much of `wanted_bytes` of address space to reserve: all of it, unless the process's is
/// limited (RLIMIT_AS, `ulimit -v`). Then a share of the limit, as the program needs the rest;
/// pages that are never touched count as well. One system call.
inline std::size_t fit_address_space(std::size_t wanted_bytes, std::size_t one_in) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        limit.rlim_cur / one_in >= wanted_bytes) {
        return wanted_bytes;
    }
    return static_cast<std::size_t>(limit.rlim_cur / one_in);
}

/// Whether the process's writable private memory is limited (RLIMIT_DATA, `ulimit -d`).
inline bool is_data_limited() {
    rlimit limit{};
    return ::getrlimit(RLIMIT_DATA, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

/// What an anonymous mapping is made of. Where private memory is limited, shared memory, which that
/// limit does not count (Linux, mm/mmap.c, is_data_mapping()): what the agent reserves is not to be
/// missing when the program wants it.
enum class MappingKind { kPrivate, kShared };

inline MappingKind pick_mapping_kind() {
    return is_data_limited() ? MappingKind::kShared : MappingKind::kPrivate;
}

/// Owner of one mapping of this process; unmaps it when it goes out of scope. Anonymous mappings
/// are the agent's only memory: they do not go through the target's allocator, they are zero, and
/// pages that are never touched cost nothing.
class Mapping {
  public:
    Mapping() = default;
    Mapping(void* data, std::size_t size_bytes) : data_(data), size_bytes_(size_bytes) {}
    Mapping(Mapping&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)),
          size_bytes_(std::exchange(other.size_bytes_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept {
        if (this != &other) {
            reset();
            data_ = std::exchange(other.data_, nullptr);
            size_bytes_ = std::exchange(other.size_bytes_, 0);
        }
        return *this;
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() { reset(); }

    /// Reserves `size_bytes` of zeroed memory, not for forked children. kNoSpace when the system
    /// refuses.
    static Result<Mapping> make_anonymous(std::size_t size_bytes) {
        return make(size_bytes, PROT_READ | PROT_WRITE, pick_mapping_kind());
    }

    /// The same without any access to it, which the owner gets with mprotect(2) as it needs it.
    static Result<Mapping> make_without_access(std::size_t size_bytes, MappingKind kind) {
        return make(size_bytes, PROT_NONE, kind);
    }

    /// Keeps it from children that are forked from now on: they have no use for it, and what is
    /// mapped lives as long as any mapping.
    void keep_from_children() const {
#ifdef MADV_DONTFORK
        ::madvise(data_, size_bytes_, MADV_DONTFORK);
#endif
    }

    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(data_); }
    [[nodiscard]] std::size_t size_bytes() const { return size_bytes_; }
    [[nodiscard]] explicit operator bool() const { return data_ != nullptr; }
    /// Gives up ownership; the caller unmaps.
    [[nodiscard]] void* release() {
        size_bytes_ = 0;
        return std::exchange(data_, nullptr);
    }
    void reset() {
        if (data_ != nullptr) {
            ::munmap(data_, size_bytes_);
            data_ = nullptr;
            size_bytes_ = 0;
        }
    }

  private:
    static Result<Mapping> make(std::size_t size_bytes, int access, MappingKind kind) {
        const int flags = (kind == MappingKind::kShared ? MAP_SHARED : MAP_PRIVATE) |
                          MAP_ANONYMOUS | MAP_NORESERVE;
        void* data = ::mmap(nullptr, size_bytes, access, flags, -1, 0);
        if (data == MAP_FAILED) {
            return fail(ErrorKind::kNoSpace, "reserve memory for the sampler (ulimit -v)", errno);
        }
        Mapping mapping(data, size_bytes);
        mapping.keep_from_children();
        return mapping;
    }

    void* data_ = nullptr;
    std::size_t size_bytes_ = 0;
};

/// Address space whose memory is taken from its start, as much as is needed. For what may become
/// large: a program that locks its memory (mlockall(2)) has the kernel fill all that it could write
/// to, touched or not.
class Reservation {
  public:
    static Result<Reservation> make(std::size_t capacity_bytes) {
        return make(capacity_bytes, pick_mapping_kind());
    }
    static Result<Reservation> make(std::size_t capacity_bytes, MappingKind kind) {
        auto mapping = Mapping::make_without_access(capacity_bytes, kind);
        if (!mapping) {
            return tl::unexpected(mapping.error());
        }
        Reservation reservation;
        reservation.mapping_ = std::move(*mapping);
        return reservation;
    }

    /// Makes the first `size_bytes` usable, zeroed where they were not before. False when that is
    /// more than the capacity, or the system refuses. One system call each kStepBytes.
    [[nodiscard]] bool grow_to(std::size_t size_bytes) {
        if (size_bytes <= usable_bytes_) {
            return true;
        }
        if (size_bytes > capacity_bytes()) {
            return false;
        }
        const std::size_t steps = (size_bytes + kStepBytes - 1) / kStepBytes;
        const std::size_t end = std::min(steps * kStepBytes, capacity_bytes());
        if (::mprotect(data() + usable_bytes_, end - usable_bytes_, PROT_READ | PROT_WRITE) != 0) {
            return false;
        }
        usable_bytes_ = end;
        return true;
    }

    [[nodiscard]] std::byte* data() const { return mapping_.data(); }
    [[nodiscard]] std::size_t capacity_bytes() const { return mapping_.size_bytes(); }

  private:
    // A multiple of every system's page size.
    static constexpr std::size_t kStepBytes = std::size_t{256} << 10;

    Mapping mapping_;
    std::size_t usable_bytes_ = 0;
};

/// An array of T in reserved address space: as much of it is memory as grow_to() has asked for. T
/// is trivial, as for a FixedArray.
template <typename T>
class ReservedArray {
  public:
    static Result<ReservedArray> make(std::size_t capacity) {
        static_assert(std::is_trivially_copyable_v<T>);
        auto reservation = Reservation::make(capacity * sizeof(T));
        if (!reservation) {
            return tl::unexpected(reservation.error());
        }
        ReservedArray array;
        array.reservation_ = std::move(*reservation);
        array.capacity_ = capacity;
        return array;
    }

    /// Makes the first `count` usable. False when that is more than the capacity, or the system
    /// refuses.
    [[nodiscard]] bool grow_to(std::size_t count) {
        return count <= capacity_ && reservation_.grow_to(count * sizeof(T));
    }
    [[nodiscard]] std::size_t capacity() const { return capacity_; }
    [[nodiscard]] T* data() { return reinterpret_cast<T*>(reservation_.data()); }
    [[nodiscard]] const T* data() const { return reinterpret_cast<const T*>(reservation_.data()); }
    T& operator[](std::size_t index) { return data()[index]; }
    const T& operator[](std::size_t index) const { return data()[index]; }

  private:
    Reservation reservation_;
    std::size_t capacity_ = 0;
};

/// A fixed-capacity array of T in memory of its own, zeroed, allocated once. T is trivial: no
/// constructor runs, all-zero bytes are a valid T.
template <typename T>
class FixedArray {
  public:
    static Result<FixedArray> make(std::size_t capacity) {
        static_assert(std::is_trivially_copyable_v<T>);
        // NOLINTNEXTLINE(bugprone-sizeof-expression): an array of pointers is meant where T is one.
        auto mapping = Mapping::make_anonymous(capacity * sizeof(T));
        if (!mapping) {
            return tl::unexpected(mapping.error());
        }
        FixedArray array;
        array.mapping_ = std::move(*mapping);
        array.capacity_ = capacity;
        return array;
    }

    [[nodiscard]] std::size_t capacity() const { return capacity_; }
    [[nodiscard]] T* data() { return reinterpret_cast<T*>(mapping_.data()); }
    [[nodiscard]] const T* data() const { return reinterpret_cast<const T*>(mapping_.data()); }
    T& operator[](std::size_t index) { return data()[index]; }
    const T& operator[](std::size_t index) const { return data()[index]; }

  private:
    Mapping mapping_;
    std::size_t capacity_ = 0;
};

}  // namespace echion
