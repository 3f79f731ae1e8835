#include "capture/native_ids.h"

#include <algorithm>
#include <array>

#include "platform/process_info.h"
#include "platform/thread_record.h"

namespace echion::capture {
namespace {

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

std::size_t NativeIds::count_witnesses(MemoryReader& reader, std::size_t offset,
                                       std::span<const std::uintptr_t> thread_ids) const {
    std::array<std::uint32_t, kMaxWitnesses> found;
    std::size_t alive = 0;
    thread_ids = thread_ids.first(std::min(thread_ids.size(), found.size()));
    for (auto thread = thread_ids.begin(); thread != thread_ids.end(); ++thread) {
        if (std::find(thread_ids.begin(), thread, *thread) != thread) {
            continue;  // a new state can have the number of the thread that made it
        }
        const auto id = reader.read_value<std::uint32_t>(Address(*thread + offset));
        if (!id) {
            return 0;
        }
        if (*id == 0) {
            continue;
        }
        const auto* end = found.cbegin() + alive;
        if (find(*id) == 0 || std::find(found.cbegin(), end, *id) != end) {
            return 0;
        }
        found[alive++] = *id;
    }
    return alive;
}

NativeIds::Place NativeIds::find_place(MemoryReader& reader, std::uintptr_t main_thread,
                                       std::span<const std::uintptr_t> thread_ids) const {
    for (const bool is_first : {true, false}) {
        Place place;
        place.offset =
            find_thread_number(reader, main_thread, [&](std::size_t offset, std::uint32_t number) {
                if ((number == own_pid_) == is_first) {
                    place.witnesses = count_witnesses(reader, offset, thread_ids);
                }
                return place.witnesses > 0;
            });
        if (place.offset != 0) {
            return place;
        }
    }
    return {};
}

}  // namespace echion::capture
