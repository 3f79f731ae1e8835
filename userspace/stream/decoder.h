#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/function_ref.h"
#include "model/profile_events.h"
#include "stream/record.h"

namespace echion::stream {

/// Bounds on what one agent can make the command-line program remember, whatever it sends.
struct DecoderLimits {
    std::size_t definition_bytes = std::size_t{256} << 20;  ///< Of all codes and names in force.
    std::size_t live_frames = std::size_t{16} << 20;        ///< In all threads' current stacks.
    std::size_t stack_frames = kMaxFrames;  ///< In one: what the agent was asked for.
};

/// Turns batches into events. It trusts nothing: every length, id, count and reference is checked
/// before an event is made of it, so that the receiver need not. Host side, one thread.
class Decoder {
  public:
    explicit Decoder(model::ProfileEvents& events, DecoderLimits limits = {})
        : events_(events), limits_(limits) {}

    /// Decodes one batch, or fails with kProtocol and what was wrong. The events of the records in
    /// front of the bad one have been made; after a failure the stream is of no further use, and
    /// every further call fails.
    Status decode(std::span<const std::byte> batch);
    /// The same, but asks in front of each record whether to go on. Returns the bytes decoded: the
    /// next call goes on with the rest, if there is one. So that a batch of 4 MiB, of which every
    /// few bytes can change a stack of many frames, need not be decoded in one go.
    Result<std::size_t> decode_some(std::span<const std::byte> batch, FunctionRef<bool()> goes_on);

    /// What it holds for this process, about.
    [[nodiscard]] std::size_t memory_bytes() const;

    [[nodiscard]] bool has_started() const { return started_; }

  private:
    class Reader;
    struct CodeState {
        std::uint32_t bytes = 0;  // 0: not defined
    };
    struct ThreadState {
        bool alive = false;
        std::uint32_t depth = 0;
        std::uint32_t name_bytes = 0;
    };

    Status decode_record(Reader& reader);
    Status decode_start(Reader& reader);
    Status decode_tick(Reader& reader);
    Status decode_lost(Reader& reader);
    Status decode_code(Reader& reader);
    Status decode_thread(Reader& reader);
    Status decode_thread_end(Reader& reader);
    Status decode_stack(Reader& reader);
    Status decode_cpu(Reader& reader);
    Status decode_missed(Reader& reader);
    Status decode_share(Reader& reader);

    /// The state of a thread id that was read, or null when it names no living thread.
    ThreadState* find_thread(std::uint64_t thread_id);
    /// Counts definitions; false when they are over their limit.
    bool charge(std::uint32_t& charged, std::size_t bytes);

    model::ProfileEvents& events_;
    DecoderLimits limits_;
    std::vector<CodeState> codes_;
    std::vector<ThreadState> threads_;
    std::vector<model::FrameLocation> frames_;  // of the stack being decoded
    std::string texts_[3];                      // repaired texts of the record being decoded
    std::size_t definition_bytes_ = 0;
    std::size_t live_frames_ = 0;
    bool started_ = false;
    bool in_batch_ = false;
    bool failed_ = false;
};

}  // namespace echion::stream
