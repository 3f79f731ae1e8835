#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "code/code_sink.h"
#include "stream/encoder.h"

namespace echion::sampling {

/// Hears of code objects as they are defined in the stream, and remembers those that an event loop
/// of asyncio waits in: `_run_once`, which calls `select` of its selector. Sampler thread only.
class LoopCodes final : public code::CodeSink {
  public:
    explicit LoopCodes(code::CodeSink& next) : next_(next) {}

    void define(const code::CodeDefinition& code) override;

    /// How many frames of a stack, root first, are those up to a loop's `_run_once`; 0: it has
    /// none.
    [[nodiscard]] std::size_t find_loop(std::span<const stream::FrameRef> stack) const;
    /// Whether a frame is that of a selector's `select`.
    [[nodiscard]] bool is_select(const stream::FrameRef& frame) const {
        return selects_.has(frame.code_id);
    }

  private:
    // A program has one `_run_once`, and a `select` for each kind of selector.
    struct Ids {
        std::array<std::uint32_t, 16> ids;
        std::size_t count = 0;

        [[nodiscard]] bool has(std::uint32_t id) const;
        void set(std::uint32_t id, bool is_one);
    };

    code::CodeSink& next_;
    Ids loops_{};
    Ids selects_{};
};

}  // namespace echion::sampling
