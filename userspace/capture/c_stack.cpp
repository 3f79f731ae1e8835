#include "capture/c_stack.h"

#include <algorithm>
#include <array>
#include <limits>

#include "platform/process_info.h"
#include "platform/thread_record.h"

namespace echion::capture {
namespace {

constexpr std::size_t kPieceBytes = 1024;

}  // namespace

Result<CStack> CStack::find(pid_t pid, pid_t tid, std::uintptr_t thread_id, bool is_main) {
    const auto call = read_blocked_call(pid, tid);
    if (!call) {
        return tl::unexpected(call.error());
    }
    const std::uintptr_t from = call->stack_pointer & ~(sizeof(void*) - 1);
    if (is_main && from > thread_id) {
        return CStack(from, std::numeric_limits<std::uintptr_t>::max());
    }
    // A program may give a thread other stacks, for signals or for coroutines.
    if (is_main || thread_id - from > kMostStackBytes) {
        return fail(ErrorKind::kNotReady, "the thread does not stand on a stack of its own");
    }
    return CStack(from, thread_id);
}

std::optional<bool> CStack::refers_to(MemoryReader& reader, Address object,
                                      std::size_t size_bytes) const {
    std::array<std::byte, kPieceBytes> piece;
    const std::size_t searched = std::min(end_ - from_, kSearchedBytes);
    for (std::size_t at = 0; at < searched;) {
        // In pieces that no border of pages cuts: the stack ends at one.
        const std::size_t size =
            std::min(piece.size() - (from_ + at) % piece.size(), searched - at);
        if (!reader.read_bytes(Address(from_ + at), piece.data(), size)) {
            // The end of the main thread's shows so, and nothing else is known then.
            return end_ == std::numeric_limits<std::uintptr_t>::max() && at > 0
                       ? std::optional<bool>(false)
                       : std::nullopt;
        }
        for (std::size_t in = 0; in + sizeof(void*) <= size; in += sizeof(void*)) {
            if (load_address(piece.data(), in) - object < size_bytes) {
                return true;
            }
        }
        at += size;
    }
    return searched == end_ - from_ ? std::optional<bool>(false) : std::nullopt;
}

}  // namespace echion::capture
