#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "memory/reader.h"

/// What the harnesses share. `require` is what finds a fault that no sanitizer sees.
namespace echion::fuzz {

inline void require(bool condition, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
    if (!condition) {
        std::fprintf(stderr, "%s:%d: ERROR: a rule of the harness is broken\n", file, line);
        std::abort();
    }
}

/// The input, taken from its front. What is not there any more reads as zeros.
class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

    template <typename T>
    T take() {
        static_assert(std::is_trivially_copyable_v<T>);
        T value{};
        take_into(&value, sizeof(value));
        return value;
    }
    void take_into(void* into, std::size_t size_bytes) {
        const auto part = take_bytes(size_bytes);
        if (!part.empty()) {
            std::memcpy(into, part.data(), part.size());
        }
    }
    /// At most so many.
    std::span<const std::uint8_t> take_bytes(std::size_t count) {
        const auto part = rest_.first(std::min(count, rest_.size()));
        rest_ = rest_.subspan(part.size());
        return part;
    }
    [[nodiscard]] bool is_empty() const { return rest_.empty(); }
    [[nodiscard]] std::span<const std::uint8_t> rest() const { return rest_; }

  private:
    std::span<const std::uint8_t> rest_;
};

/// A target whose only memory is `image`, at `base`. Counts what is read of it.
class ImageReader final : public MemoryReader {
  public:
    ImageReader(std::uintptr_t base, std::span<const std::uint8_t> image)
        : base_(base), image_(image) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        ++calls;
        for (std::size_t i = 0; i < requests.size(); ++i) {
            const std::size_t offset = requests[i].from.value() - base_;
            if (requests[i].from.value() < base_ || offset > image_.size() ||
                requests[i].size_bytes > image_.size() - offset) {
                return i;
            }
            if (requests[i].size_bytes != 0) {
                std::memcpy(requests[i].into, image_.data() + offset, requests[i].size_bytes);
            }
            bytes += requests[i].size_bytes;
        }
        return requests.size();
    }

    std::size_t calls = 0;
    std::size_t bytes = 0;

  private:
    std::uintptr_t base_;
    std::span<const std::uint8_t> image_;
};

constexpr std::size_t kPatchBytes = 12;

/// Writes into an image at `base`, patch by patch: u16 where, u8 how, u8 unused, u64 what.
///
///     how:  0..3 writes the low 1, 2, 4 or 8 bytes; 4 writes the address of offset `what` of the
///           image; 5 cuts the image off at `where`
inline void apply_patches(std::vector<std::uint8_t>& image, std::uintptr_t base, Input& input,
                          std::size_t max_patches = SIZE_MAX) {
    for (; input.rest().size() >= kPatchBytes && max_patches > 0; --max_patches) {
        const auto where = input.take<std::uint16_t>();
        const auto how = static_cast<std::uint8_t>(input.take<std::uint16_t>() % 256 % 6);
        auto what = input.take<std::uint64_t>();
        if (image.empty()) {
            return;
        }
        std::size_t at = where % image.size();
        if (how == 5) {
            image.resize(at);
            continue;
        }
        std::size_t width = how < 4 ? std::size_t{1} << how : sizeof(void*);
        if (how == 4) {
            what = base + what % image.size() / sizeof(void*) * sizeof(void*);
        }
        at -= at % width;
        width = std::min(width, image.size() - at);
        std::memcpy(image.data() + at, &what, width);
    }
}

/// Whether every byte belongs to a well-formed code point (lengths and continuation bytes).
inline bool is_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto lead = static_cast<unsigned char>(text[at]);
        const bool valid_lead = lead < 0x80 || (lead >= 0xc2 && lead < 0xf5);
        const std::size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        if (!valid_lead || length > text.size() - at) {
            return false;
        }
        for (std::size_t i = 1; i < length; ++i) {
            if ((static_cast<unsigned char>(text[at + i]) & 0xc0U) != 0x80U) {
                return false;
            }
        }
        at += length;
    }
    return true;
}

}  // namespace echion::fuzz
