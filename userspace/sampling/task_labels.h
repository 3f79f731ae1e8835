#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/frame_walker.h"
#include "sampling/tick_stream.h"

namespace echion::sampling {

/// Labels that stand in stacks between frames: names of tasks. A label is a frame whose code object
/// has an odd address, which no object has. In the stream it has an id above those of code objects,
/// and is told of like one of them. Full, the table starts over with the next tick. Sampler thread
/// only; memory is taken with the first label.
class TaskLabels {
  public:
    static constexpr std::size_t kMaxLabels = std::size_t{1} << 17;
    static constexpr std::size_t kMaxNameBytes = 256;

    /// Begins a tick: what the stream is told from now on is void or good together.
    void begin_tick();
    /// The frame that stands for a name, UTF-8, of kMaxNameBytes at most.
    cpython::RawFrame frame_of(std::string_view name);
    static bool is_label_id(std::uint32_t id) { return id > kFirstId; }
    static bool is_label(Address code) { return (code.value() & 1U) != 0; }
    /// The id of a label, of which the stream has been told by now.
    std::uint32_t find_id(TickStream& ticks, Address label);
    /// What the stream has been told in this tick is void.
    void forget_tick();
    /// Changes when ids are given anew.
    [[nodiscard]] std::uint32_t numbering() const { return numbering_; }
    /// Names that found no room, each time that they were met.
    [[nodiscard]] std::uint64_t overflows() const { return overflows_; }

  private:
    static constexpr std::uint32_t kFirstId = code::CodeRegistry::kMaxIds;
    static constexpr std::size_t kMaxTextBytes = std::size_t{1} << 23;
    static constexpr std::size_t kSlots = 2 * kMaxLabels;

    struct Label {
        std::uint64_t hash;
        std::uint64_t told;  // in which tick; 0: not yet
        std::uint32_t text;
        std::uint32_t text_bytes;
    };
    bool reserve();
    [[nodiscard]] std::string_view text(const Label& label) const {
        return {texts_.data() + label.text, label.text_bytes};
    }

    bool is_reserved_ = false;
    FixedArray<std::uint32_t> slots_;  // by hash: place in labels_, and one
    ReservedArray<Label> labels_;
    ReservedArray<char> texts_;
    std::size_t label_count_ = 0;
    std::size_t text_bytes_ = 0;
    std::uint64_t tick_ = 1;
    std::uint32_t numbering_ = 0;
    std::uint64_t overflows_ = 0;
};

}  // namespace echion::sampling
