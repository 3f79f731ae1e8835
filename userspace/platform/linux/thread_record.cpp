#include "platform/thread_record.h"

#include <array>

namespace echion {
namespace {

// The place: glibc 2.36 has it at 720 (x86-64) and 104 (i386) bytes, musl 1.2 at 48.
constexpr std::size_t kRecordBytes = 2048;
constexpr std::size_t kPieceBytes = 256;

}  // namespace

std::size_t find_thread_number(MemoryReader& reader, std::uintptr_t thread_id,
                               FunctionRef<bool(std::size_t, std::uint32_t)> is_it) {
    std::array<std::byte, kPieceBytes> piece;
    // In pieces: the record may end where its mapping does.
    for (std::size_t at = 0; at < kRecordBytes; at += piece.size()) {
        if (!reader.read_bytes(Address(thread_id + at), piece.data(), piece.size())) {
            break;
        }
        // The first word is a pointer to the record itself.
        for (std::size_t in = at == 0 ? sizeof(void*) : 0; in < piece.size(); in += sizeof(void*)) {
            if (is_it(at + in, load<std::uint32_t>(piece.data(), in))) {
                return at + in;
            }
        }
    }
    return 0;
}

}  // namespace echion
