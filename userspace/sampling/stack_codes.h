#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/frame_walker.h"
#include "sampling/last_stack.h"
#include "sampling/loop_codes.h"
#include "sampling/python_memory.h"
#include "sampling/task_labels.h"
#include "sampling/tick_stream.h"

namespace echion::sampling {

/// Gives the frames of a stack the ids of their code objects, which are defined in the stream as
/// they are met, and compares them with the last stack of the same owner. Sampler thread only.
class StackCodes {
  public:
    StackCodes(PythonMemory& memory, TickStream& ticks, LoopCodes& sink, code::CodeRegistry& codes,
               TaskLabels& labels)
        : memory_(memory), ticks_(ticks), sink_(sink), codes_(codes), labels_(labels) {}
    Status reserve(std::size_t max_frames);

    /// Looks the frames up (newest first; those that are no code of the program's are taken out of
    /// them). The result is good until the next call.
    AssignedStack assign(const LastStack& last, std::span<cpython::RawFrame> raw);

  private:
    bool assign_once(const LastStack& last, std::span<const cpython::RawFrame> raw,
                     std::size_t* kept);

    // Of the ids of code objects and labels.
    [[nodiscard]] std::uint32_t numbering() const {
        return codes_.numbering() + (labels_.numbering() << 16U);
    }

    PythonMemory& memory_;
    TickStream& ticks_;
    LoopCodes& sink_;
    code::CodeRegistry& codes_;
    TaskLabels& labels_;
    FixedArray<Address> found_codes_;  // root first
    FixedArray<stream::FrameRef> found_refs_;
};

}  // namespace echion::sampling
