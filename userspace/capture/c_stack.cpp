#include "capture/c_stack.h"

#include <algorithm>
#include <array>
#include <limits>

#include "platform/process_info.h"

namespace echion::capture {
namespace {

constexpr std::size_t kPieceBytes = 1024;

}  // namespace

Result<CStack> CStack::find(pid_t pid, pid_t tid, std::uintptr_t thread_id) {
    const auto call = read_blocked_call(pid, tid);
    if (!call) {
        return tl::unexpected(call.error());
    }
    const std::uintptr_t from = call->stack_pointer & ~(sizeof(void*) - 1);
    const std::uintptr_t end =
        thread_id > from ? thread_id : std::numeric_limits<std::uintptr_t>::max();
    return CStack(from, end);
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
            return false;  // its end
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
