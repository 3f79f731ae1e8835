#include "engine/bpf/cpu_state_map.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "engine/bpf/kernel_time.h"

namespace echion::engine {
namespace {

// The writer is a CPU with interrupts off, so that it finishes at once; unless its hypervisor
// stops it in the middle, which waiting does not help against.
constexpr int kMaxAttempts = 64;

// The largest ring that a header may ask for.
constexpr std::uint64_t kMaxRingBytes = 1U << 28;

Result<Mapping> map_read_only(int fd, std::size_t size_bytes) {
    void* data = ::mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map the CPU state table", errno);
    }
    Mapping mapping(data, size_bytes);
    mapping.keep_from_children();
    return mapping;
}

bool is_plausible(const echion_table& table) {
    const std::uint32_t capacity = table.thread_capacity;
    return capacity >= 1 && capacity <= ECHION_MAX_THREADS && table.first_stamp_entry == 1 &&
           table.first_thread_entry ==
               1 + (capacity + ECHION_STAMPS_PER_ENTRY - 1) / ECHION_STAMPS_PER_ENTRY &&
           std::has_single_bit(table.snapshot_ring_bytes) &&
           table.snapshot_ring_bytes <= kMaxRingBytes;
}

}  // namespace

Result<CpuStateMap> CpuStateMap::open(int fd, std::int64_t clock_ahead_ns) {
    const auto page_bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    // The header first: it says how large the whole is.
    auto first_page = map_read_only(fd, page_bytes);
    if (!first_page) {
        return tl::unexpected(first_page.error());
    }
    const auto& header = *reinterpret_cast<const echion_table*>(first_page->data());
    if (header.magic != ECHION_ABI_MAGIC) {
        return fail(ErrorKind::kInvalid, "the CPU state table is not one");
    }
    if (header.version != ECHION_ABI_VERSION) {
        return fail(ErrorKind::kProtocol, "the CPU state table is of another version");
    }
    if (!is_plausible(header)) {
        return fail(ErrorKind::kInvalid, "the CPU state table contradicts itself");
    }
    CpuStateMap map;
    map.capacity_ = header.thread_capacity;
    map.clock_ahead_ns_ = clock_ahead_ns;
    map.snapshot_ring_bytes_ = static_cast<std::size_t>(header.snapshot_ring_bytes);
    const std::size_t entries = header.first_thread_entry + header.thread_capacity;
    auto whole =
        map_read_only(fd, (entries * ECHION_ENTRY_BYTES + page_bytes - 1) & ~(page_bytes - 1));
    if (!whole) {
        return tl::unexpected(whole.error());
    }
    map.mapping_ = std::move(*whole);
    const std::byte* base = map.mapping_.data();
    map.stamps_ = reinterpret_cast<const std::uint32_t*>(base + ECHION_ENTRY_BYTES);
    map.threads_ = reinterpret_cast<const echion_thread*>(
        base + std::size_t{header.first_thread_entry} * ECHION_ENTRY_BYTES);
    return map;
}

std::uint32_t CpuStateMap::used() const {
    return std::min(__atomic_load_n(&table().threads_used, __ATOMIC_ACQUIRE), capacity_);
}

std::uint64_t CpuStateMap::refused() const {
    return __atomic_load_n(&table().threads_refused, __ATOMIC_RELAXED);
}

Result<CpuState> CpuStateMap::read(std::uint32_t slot) const {
    if (slot >= used()) {
        return fail(ErrorKind::kInvalid, "read CPU state: no such slot");
    }
    const volatile echion_thread& from = threads_[slot];
    for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
        const std::uint32_t before = __atomic_load_n(&threads_[slot].sequence, __ATOMIC_ACQUIRE);
        if ((before & 1) != 0) {
            continue;
        }
        CpuState state;
        state.generation = from.generation;
        state.tid = from.target_tid;
        state.pid = from.target_pid;
        state.session_tid = from.tid;
        state.session_pid = from.pid;
        state.creator_session_tid = from.creator_tid;
        state.cpu = from.cpu;
        state.target = from.target;
        state.ended = from.state == ECHION_THREAD_ENDED;
        state.off_reason = static_cast<echion_off_reason>(from.off_reason);
        state.on_cpu_ns = from.on_cpu_ns;
        state.on_cpu_since_ns = from.on_cpu_since_ns;
        state.off_cpu_since_ns = from.off_cpu_since_ns;
        state.start_cpu_ns = from.start_cpu_ns;
        state.started_ns = from.started_ns;
        state.ended_ns = from.ended_ns;
        state.program_ns = from.program_ns;
        state.program_cpu_ns = from.program_cpu_ns;
        state.run_count = from.run_count;
        state.run_delay_ns = from.run_delay_ns;
        state.start_run_delay_ns = from.start_run_delay_ns;
        const bool in_use = from.state != ECHION_THREAD_FREE;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&threads_[slot].sequence, __ATOMIC_RELAXED) != before) {
            continue;
        }
        if (!in_use) {
            return fail(ErrorKind::kInvalid, "read CPU state: the slot was never given");
        }
        if (state.on_cpu_since_ns == ECHION_SINCE_UNKNOWN) {
            state.on_cpu_since_ns = 0;
        }
        for (std::uint64_t* time : {&state.on_cpu_since_ns, &state.off_cpu_since_ns,
                                    &state.started_ns, &state.ended_ns, &state.program_ns}) {
            *time = to_own_time(*time, clock_ahead_ns_);
        }
        return state;
    }
    return fail(ErrorKind::kTorn, "read CPU state: it kept changing");
}

Result<std::uint32_t> CpuStateMap::find_slot(std::uint32_t pid, std::uint32_t tid,
                                             std::uint32_t target) const {
    const std::uint32_t end = used();
    for (std::uint32_t slot = 0; slot < end; ++slot) {
        if (__atomic_load_n(&threads_[slot].target_tid, __ATOMIC_RELAXED) != tid) {
            continue;
        }
        const auto state = read(slot);
        if (state && !state->ended && state->tid == tid && state->pid == pid &&
            (target == kAnyTarget || state->target == target)) {
            return slot;
        }
    }
    return fail(ErrorKind::kInvalid, "find CPU state: the thread has no slot");
}

}  // namespace echion::engine
