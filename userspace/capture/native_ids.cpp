#include "capture/native_ids.h"

#include <array>

#include "platform/process_info.h"

namespace echion::capture {
namespace {

// glibc 2.36 has the id at 720 (x86-64) and 104 (i386) bytes, musl 1.2 at 48.
constexpr std::size_t kPthreadBytes = 2048;
constexpr std::size_t kPieceBytes = 256;
// Threads that have to agree on a place; more would only cost time.
constexpr std::size_t kMaxWitnesses = 64;

}  // namespace

Result<NativeIds> NativeIds::make() {
    auto ids = AddressMap::make(std::size_t{1} << 15);
    if (!ids) {
        return tl::unexpected(ids.error());
    }
    NativeIds result;
    result.ids_ = std::move(*ids);
    return result;
}

Status NativeIds::refresh(pid_t pid) {
    ids_.clear();
    const auto process = read_process_info(pid);
    if (!process) {
        return tl::unexpected(process.error());
    }
    own_pid_ = static_cast<std::uint32_t>(process->own_pid);
    const bool is_same_space = process->own_pid == process->pid;
    return for_each_thread(pid, [&](pid_t tid) {
        pid_t own_tid = tid;
        if (!is_same_space) {
            const auto thread = read_thread_info(pid, tid);
            if (!thread) {
                return true;  // it has ended meanwhile
            }
            own_tid = thread->own_pid;
        }
        return ids_.set(Address(static_cast<std::uintptr_t>(own_tid)),
                        static_cast<std::uint32_t>(tid));
    });
}

pid_t NativeIds::find(std::uint32_t native_id) const {
    const std::uint32_t tid = native_id == 0 ? AddressMap::kNone : ids_.find(Address(native_id));
    return tid == AddressMap::kNone ? 0 : static_cast<pid_t>(tid);
}

bool NativeIds::fits(MemoryReader& reader, std::size_t offset,
                     std::span<const std::uintptr_t> thread_ids) const {
    std::size_t alive = 0;
    for (std::size_t i = 0; i < thread_ids.size() && i < kMaxWitnesses; ++i) {
        const auto id = reader.read_value<std::uint32_t>(Address(thread_ids[i] + offset));
        if (!id || (*id != 0 && find(*id) == 0)) {
            return false;
        }
        alive += *id != 0;
    }
    return alive > 0;
}

std::size_t NativeIds::find_offset(MemoryReader& reader, std::uintptr_t main_thread,
                                   std::span<const std::uintptr_t> thread_ids) const {
    std::array<std::byte, kPthreadBytes> structure;
    std::size_t size = 0;
    // In pieces: the structure may be shorter than this, and end where its mapping does.
    while (size < structure.size() &&
           reader.read_bytes(Address(main_thread + size), structure.data() + size, kPieceBytes)) {
        size += kPieceBytes;
    }
    for (const bool is_first : {true, false}) {
        for (std::size_t offset = sizeof(void*); offset < size; offset += sizeof(std::uint32_t)) {
            const auto id = load<std::uint32_t>(structure.data(), offset);
            const bool is_candidate = is_first ? id == own_pid_ : id != own_pid_;
            if (is_candidate && fits(reader, offset, thread_ids)) {
                return offset;
            }
        }
    }
    return 0;
}

}  // namespace echion::capture
