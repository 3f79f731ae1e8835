#include "sampling/loop_codes.h"

#include <algorithm>

namespace echion::sampling {

bool LoopCodes::Ids::has(std::uint32_t id) const {
    return std::find(ids.data(), ids.data() + count, id) != ids.data() + count;
}

void LoopCodes::Ids::set(std::uint32_t id, bool is_one) {
    auto* end = std::remove(ids.data(), ids.data() + count, id);
    count = static_cast<std::size_t>(end - ids.data());
    if (is_one && count < ids.size()) {
        ids[count++] = id;
    }
}

void LoopCodes::define(const code::CodeDefinition& code) {
    // Source: Lib/asyncio/base_events.py, Lib/selectors.py, 3.8 to 3.15. An id that is given anew
    // is another code object's.
    loops_.set(code.id, code.name == "_run_once" && code.file_name.ends_with("base_events.py"));
    selects_.set(code.id, code.name == "select" && code.file_name.ends_with("selectors.py"));
    next_.define(code);
}

std::size_t LoopCodes::find_loop(std::span<const stream::FrameRef> stack) const {
    std::size_t count = stack.size();
    while (count > 0 && !loops_.has(stack[count - 1].code_id)) {
        --count;
    }
    return count;
}

}  // namespace echion::sampling
