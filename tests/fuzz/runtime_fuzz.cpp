// The readers of the runtime's own structures: interpreters, thread states, the GIL, and the
// offsets that 3.13 and later state of themselves. The input writes into a sane image.
//
//      input:  u8 version, then patches (fuzz_support.h)

#include <array>
#include <cstdint>

#include "cpython/debug_offsets.h"
#include "cpython/layout.h"
#include "cpython/runtime_view.h"
#include "fuzz_support.h"
#include "process_image.h"

namespace {

using namespace echion;
using namespace echion::cpython;
using fuzz::require;

constexpr std::size_t kMostSteps = 1000;  // of a list of threads; their bound is their callers'

void read_lists(MemoryReader& reader, const RuntimeView& view, bool is_sane) {
    (void)check_ready(reader, view);
    static std::array<InterpreterHead, kMaxInterpreters> interpreters;
    const auto count = read_interpreters(reader, view, interpreters);
    if (!count) {
        return;
    }
    require(*count >= 1 && *count <= interpreters.size());
    for (std::size_t i = 0; i < *count; ++i) {
        (void)read_gil(reader, view, interpreters[i].gil);
        auto next = read_threads_head(reader, view, interpreters[i].interpreter);
        std::size_t steps = 0;
        for (; next && *next && steps < kMostSteps; ++steps) {
            const auto head = read_thread_head(reader, view, *next);
            next = head ? Result<Address>(head->next) : tl::unexpected(head.error());
        }
        require(!is_sane || (steps == 2 && *count == 1));
    }
}

/// Offsets that a target states are taken only if each field lies in its structure.
template <typename Stated>
void apply_stated(fuzz::Input input, const Layout& row) {
    Stated stated{};
    input.take_into(&stated, sizeof(stated));
    const auto layout = apply_debug_offsets(stated, row);
    if (layout) {
        require(layout->thread_state.size > 0 && layout->thread_state.size < (1 << 20));
        require(layout->frame.previous >= 0 && layout->frame.previous < layout->frame.size);
        require(layout->frame.code >= 0 && layout->frame.code < layout->frame.size);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const Layout& row = fuzz::pick_row(data[0]);
    const fuzz::ProcessImage& sane = fuzz::process_image_of(row);
    std::vector<std::uint8_t> image = sane.bytes;
    fuzz::Input input(data + 1, size - 1);
    switch (row.runtime.debug_offsets_kind) {
        case DebugOffsetsKind::k314:
            apply_stated<DebugOffsets314>(input, row);
            break;
        case DebugOffsetsKind::k315:
            apply_stated<DebugOffsets315>(input, row);
            break;
        case DebugOffsetsKind::kNone:
        case DebugOffsetsKind::k313:
            apply_stated<DebugOffsets313>(input, row);
            break;
    }
    fuzz::apply_patches(image, fuzz::kImageBase, input);

    fuzz::ImageReader reader(fuzz::kImageBase, image);
    read_lists(reader, sane.view, size == 1);
    if (const auto layout = read_debug_offsets(reader, sane.view.runtime, row)) {
        RuntimeView view = sane.view;
        view.layout = &*layout;
        read_lists(reader, view, false);
    }
    require(reader.calls < 2 * kMaxInterpreters * (kMostSteps + 8));
    return 0;
}
