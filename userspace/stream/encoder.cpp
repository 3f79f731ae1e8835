#include "stream/encoder.h"

#include <algorithm>
#include <cstring>

namespace echion::stream {
namespace {

constexpr std::size_t kMaxVarintBytes = 10;
constexpr std::size_t kMaxVarint32Bytes = 5;
constexpr std::size_t kSizeFieldBytes = sizeof(std::uint32_t);

/// Cuts a text that is too long in front of the character that does not fit.
std::string_view clip_text(std::string_view text) {
    if (text.size() <= kMaxTextBytes) {
        return text;
    }
    std::size_t size = kMaxTextBytes;
    while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80U) {
        --size;
    }
    return text.substr(0, size);
}

}  // namespace

// A reservation covers everything that a record then puts; the puts themselves check nothing.
inline bool Encoder::reserve(std::size_t bytes) {
    if (overflow_ || static_cast<std::size_t>(end_ - cursor_) < bytes) {
        overflow_ = true;
        return false;
    }
    return true;
}

inline void Encoder::put_u8(std::uint8_t value) { *cursor_++ = std::byte{value}; }

inline void Encoder::put_varint(std::uint64_t value) {
    while (value >= 0x80) {
        *cursor_++ = static_cast<std::byte>(value | 0x80U);
        value >>= 7U;
    }
    *cursor_++ = static_cast<std::byte>(value);
}

inline void Encoder::put_svarint(std::int64_t value) {
    put_varint((static_cast<std::uint64_t>(value) << 1U) ^ static_cast<std::uint64_t>(value >> 63));
}

inline void Encoder::put_bytes(const void* bytes, std::size_t size_bytes) {
    if (size_bytes != 0) {
        std::memcpy(cursor_, bytes, size_bytes);
        cursor_ += size_bytes;
    }
}

inline void Encoder::put_text(std::string_view text) {
    put_varint(text.size());
    put_bytes(text.data(), text.size());
}

void Encoder::begin() {
    const std::span<std::byte> room = ring_.free_space();
    overflow_ = room.size() < kSizeFieldBytes;
    batch_ = room.data();
    cursor_ = overflow_ ? batch_ : batch_ + kSizeFieldBytes;
    end_ = batch_ + std::min<std::size_t>(room.size(), kSizeFieldBytes + kMaxBatchBytes);
}

void Encoder::begin_start(std::uint64_t now_ns, std::uint8_t major, std::uint8_t minor,
                          std::uint8_t micro) {
    begin();
    batch_ns_ = 0;
    if (!reserve(1 + sizeof(kStreamVersion) + kMaxVarintBytes + 3)) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kStart));
    put_bytes(&kStreamVersion, sizeof(kStreamVersion));
    put_varint(now_ns);
    put_u8(major);
    put_u8(minor);
    put_u8(micro);
}

void Encoder::continue_tick(std::uint64_t since_previous_ns) {
    if (!is_tick_void_) {
        begin_tick(since_previous_ns);
        return;
    }
    overflow_ = true;
    cursor_ = batch_;
    batch_ns_ = since_previous_ns;
}

void Encoder::begin_tick(std::uint64_t since_previous_ns) {
    is_tick_void_ = false;
    begin();
    batch_ns_ = since_previous_ns;
    if (!reserve(2 + 3 * kMaxVarintBytes)) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kTick));
    put_varint(since_previous_ns);
    if (lost_ticks_ != 0) {
        put_u8(static_cast<std::uint8_t>(RecordType::kLost));
        put_varint(lost_ticks_);
        put_varint(lost_ns_);
    }
}

void Encoder::code(std::uint32_t code_id, CodeKind kind, std::uint32_t first_line,
                   std::string_view name, std::string_view qualified_name,
                   std::string_view file_name, std::span<const std::byte> line_table) {
    name = clip_text(name);
    qualified_name = clip_text(qualified_name);
    file_name = clip_text(file_name);
    if (line_table.size() > kMaxLineTableBytes) {
        line_table = {};
    }
    if (!reserve(2 + 6 * kMaxVarint32Bytes + name.size() + qualified_name.size() +
                 file_name.size() + line_table.size())) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kCode));
    put_varint(code_id);
    put_u8(static_cast<std::uint8_t>(kind));
    put_varint(first_line);
    put_text(name);
    put_text(qualified_name);
    put_text(file_name);
    put_varint(line_table.size());
    put_bytes(line_table.data(), line_table.size());
}

void Encoder::thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                     std::uint32_t native_thread_id, std::string_view name) {
    name = clip_text(name);
    if (!reserve(1 + 3 * kMaxVarint32Bytes + kMaxVarintBytes + name.size())) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kThread));
    put_varint(thread_id);
    put_svarint(interpreter_id);
    put_varint(native_thread_id);
    put_text(name);
}

void Encoder::thread_end(std::uint32_t thread_id) {
    if (!reserve(1 + kMaxVarint32Bytes)) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kThreadEnd));
    put_varint(thread_id);
}

void Encoder::stack(std::uint32_t thread_id, std::uint8_t flags, std::uint32_t kept,
                    std::span<const FrameRef> frames) {
    if (frames.size() > kMaxFrames ||
        !reserve(2 + 3 * kMaxVarint32Bytes + 2 * kMaxVarint32Bytes * frames.size())) {
        overflow_ = true;
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kStack));
    put_varint(thread_id);
    put_u8(flags);
    put_varint(kept);
    put_varint(frames.size());
    for (const FrameRef& frame : frames) {
        put_varint(frame.code_id);
        put_svarint(frame.offset);
    }
}

void Encoder::cpu(std::uint32_t thread_id, std::uint64_t ns) {
    if (!reserve(1 + kMaxVarint32Bytes + kMaxVarintBytes)) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kCpu));
    put_varint(thread_id);
    put_varint(ns);
}

void Encoder::missed(std::uint32_t thread_id, std::uint64_t ns) {
    if (!reserve(1 + kMaxVarint32Bytes + kMaxVarintBytes)) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kMissed));
    put_varint(thread_id);
    put_varint(ns);
}

void Encoder::share(std::uint32_t thread_id, std::uint32_t parts) {
    if (!reserve(1 + 2 * kMaxVarint32Bytes)) {
        return;
    }
    put_u8(static_cast<std::uint8_t>(RecordType::kShare));
    put_varint(thread_id);
    put_varint(parts);
}

bool Encoder::commit() {
    if (overflow_) {
        lost_ns_ += batch_ns_;
        if (!is_tick_void_) {
            is_tick_void_ = true;
            ++lost_ticks_;
            ring_.count(Counter::kRingFullTicks);
        }
        return false;
    }
    const auto size_bytes = static_cast<std::uint32_t>(cursor_ - batch_ - kSizeFieldBytes);
    std::memcpy(batch_, &size_bytes, sizeof(size_bytes));
    ring_.publish(static_cast<std::size_t>(cursor_ - batch_));
    overflow_ = true;  // nothing more until the next begin
    lost_ticks_ = 0;
    lost_ns_ = 0;
    return true;
}

}  // namespace echion::stream
