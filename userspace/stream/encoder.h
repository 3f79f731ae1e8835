#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "stream/record.h"
#include "stream/ring.h"

namespace echion::stream {

/// One frame of a stack as it travels: where in which code.
struct FrameRef {
    std::uint32_t code_id;
    std::int32_t offset;  ///< Of the instruction, in bytes into the code; negative: before it.

    bool operator==(const FrameRef&) const = default;
};

/// Writes batches of records straight into the ring. For the sampler thread: no call allocates,
/// waits, makes a system call or fails at once; what has no room makes the batch void, which
/// commit() reports.
///
///     encoder.begin_tick(dt_ns);
///     encoder.stack(...); encoder.cpu(...);     // any number of records, in any order
///     if (!encoder.commit()) { /* everything since begin_tick() is void */ }
///
/// After a false commit the sampler has to give again, with the next tick: every definition (code,
/// label, thread) of the void batch, and the stacks of all living threads in full. The encoder
/// itself sees to the kLost record.
class Encoder {
  public:
    explicit Encoder(RingProducer& ring) : ring_(ring) {}
    Encoder(const Encoder&) = delete;
    Encoder& operator=(const Encoder&) = delete;

    /// Begins the first batch, in place of begin_tick().
    void begin_start(std::uint64_t now_ns, std::uint8_t major, std::uint8_t minor,
                     std::uint8_t micro);
    /// Begins a batch. `since_previous_ns` counts from the previous begin, written or not.
    void begin_tick(std::uint64_t since_previous_ns);
    /// Begins another batch of the same look at the threads. If one of its batches before was void,
    /// so is this one: a kLost record ends all threads that are not given behind it, and those of
    /// the batches before are not given again before the next look.
    void continue_tick(std::uint64_t since_previous_ns);

    /// Texts are UTF-8; what is longer than kMaxTextBytes is cut at a character. A line table
    /// longer than kMaxLineTableBytes is left out (no line is then known but the first): such a
    /// code is of kind kLines.
    void code(std::uint32_t code_id, CodeKind kind, std::uint32_t first_line, std::string_view name,
              std::string_view qualified_name, std::string_view file_name,
              std::span<const std::byte> line_table);
    void label(std::uint32_t code_id, std::string_view name) {
        code(code_id, CodeKind::kLabel, 0, name, {}, {}, {});
    }
    void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                std::uint32_t native_thread_id, std::string_view name);
    void thread_end(std::uint32_t thread_id);
    /// `flags` is a set of StackFlag; `frames`, root first, follow `kept` frames of the thread's
    /// previous stack.
    void stack(std::uint32_t thread_id, std::uint8_t flags, std::uint32_t kept,
               std::span<const FrameRef> frames);
    void cpu(std::uint32_t thread_id, std::uint64_t ns);
    void missed(std::uint32_t thread_id, std::uint64_t ns);
    void share(std::uint32_t thread_id, std::uint32_t parts);

    /// Publishes the batch, or drops it whole when it did not fit (counted in ring_full_ticks, once
    /// a tick).
    [[nodiscard]] bool commit();

    /// Bytes of the batch so far.
    [[nodiscard]] std::size_t batch_bytes() const {
        return static_cast<std::size_t>(cursor_ - batch_);
    }

  private:
    void begin();
    bool reserve(std::size_t bytes);
    void put_u8(std::uint8_t value);
    void put_varint(std::uint64_t value);
    void put_svarint(std::int64_t value);
    void put_bytes(const void* bytes, std::size_t size_bytes);
    void put_text(std::string_view text);

    RingProducer& ring_;
    std::byte* batch_ = nullptr;
    std::byte* cursor_ = nullptr;
    std::byte* end_ = nullptr;
    bool overflow_ = true;
    bool is_tick_void_ = false;     // a batch of it was
    std::uint64_t batch_ns_ = 0;    // time that the open batch accounts for
    std::uint64_t lost_ticks_ = 0;  // not yet reported
    std::uint64_t lost_ns_ = 0;
};

}  // namespace echion::stream
