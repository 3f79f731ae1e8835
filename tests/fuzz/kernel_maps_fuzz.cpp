// What the agent reads of the kernel's maps: the table of threads, and the ring of snapshots. Files
// stand for them, with the input's bytes in them.
//
//      input:  u16 size of the table's start, u8 steps, the table's start, then the ring: u64
//              position of the kernel, u64 of the agent, the data
//              With a table of size 0, a sane one is made.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/unique_fd.h"
#include "fuzz_support.h"
#include "sampling/cpu_watch.h"

namespace {

using namespace echion;
using fuzz::require;

constexpr std::size_t kPageBytesHere = 4096;
constexpr std::size_t kRingBytes = 4096;
// A kernel refuses to map more than a map has; so much is there for the largest table.
constexpr std::size_t kTableBytes =
    (1 + ECHION_MAX_THREADS / ECHION_STAMPS_PER_ENTRY + ECHION_MAX_THREADS + 1) *
    std::size_t{ECHION_ENTRY_BYTES};
constexpr std::uint32_t kTarget = 0;
constexpr std::uint64_t kThreadState = 0x1000;

class File {
  public:
    explicit File(std::size_t size_bytes) : fd_(memfd_create("map", MFD_CLOEXEC)) {
        require(fd_ && ftruncate(fd_.get(), static_cast<off_t>(size_bytes)) == 0);
        void* place = mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
        require(place != MAP_FAILED);
        bytes_ = {static_cast<std::uint8_t*>(place), size_bytes};
    }
    [[nodiscard]] int fd() const { return fd_.get(); }
    void fill(std::size_t at, std::size_t used_before, std::span<const std::uint8_t> content) {
        std::memset(bytes_.data() + at, 0, std::min(used_before, bytes_.size() - at));
        std::copy_n(content.begin(), std::min(content.size(), bytes_.size() - at),
                    bytes_.data() + at);
    }
    [[nodiscard]] std::uint8_t* data() { return bytes_.data(); }

  private:
    UniqueFd fd_;
    std::span<std::uint8_t> bytes_;
};

void write_sane_table(File& file, std::uint32_t own_pid) {
    echion_table table{};
    table.magic = ECHION_ABI_MAGIC;
    table.version = ECHION_ABI_VERSION;
    table.thread_capacity = 64;
    table.threads_used = 3;
    table.first_stamp_entry = 1;
    table.first_thread_entry = 3;
    table.snapshot_ring_bytes = kRingBytes;
    std::memcpy(file.data(), &table, sizeof(table));
    for (std::uint32_t slot = 0; slot < table.threads_used; ++slot) {
        echion_thread thread{};
        thread.generation = 1;
        thread.state = slot == 2 ? ECHION_THREAD_ENDED : ECHION_THREAD_LIVE;
        thread.target_pid = own_pid;
        thread.target_tid = own_pid + slot;
        std::memcpy(file.data() + (3 + slot) * sizeof(thread), &thread, sizeof(thread));
        const std::uint32_t stamp = 2 + slot;
        std::memcpy(file.data() + ECHION_ENTRY_BYTES + slot * sizeof(stamp), &stamp, sizeof(stamp));
    }
}

/// As the kernel shows it: its own position in the second page, the data twice in a row.
void write_ring(File& file, fuzz::Input& input) {
    const auto kernel = input.take<std::uint64_t>();
    const auto agent = input.take<std::uint64_t>();
    std::memcpy(file.data(), &agent, sizeof(agent));
    std::memcpy(file.data() + kPageBytesHere, &kernel, sizeof(kernel));
    const auto content = input.take_bytes(kRingBytes);
    for (std::size_t copy = 0; copy < 2; ++copy) {
        file.fill(2 * kPageBytesHere + copy * kRingBytes, kRingBytes, content);
    }
}

void look(sampling::CpuWatch& watch, sampling::TrackedThread& thread) {
    std::size_t seen = 0;
    watch.look([&](std::uint32_t slot) { seen += watch.read_own(slot).has_value() ? 1 : 0; },
               [&](sampling::TrackedThread&) { ++seen; },
               [&](sampling::TrackedThread&, const engine::CpuState&) { ++seen; });
    require(seen <= 3 * std::size_t{ECHION_MAX_THREADS});
    static volatile std::uint64_t sum;
    std::size_t snapshots = 0;
    watch.drain([&](sampling::TrackedThread& owner, const engine::SnapshotView& snapshot) {
        require(&owner == &thread && snapshot.frames.size() <= ECHION_SNAPSHOT_FRAMES);
        for (const echion_frame& frame : snapshot.frames) {
            sum = sum + frame.code;
        }
        ++snapshots;
    });
    require(snapshots <= kRingBytes / sizeof(echion_snapshot));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static File table(kTableBytes);
    static File ring(2 * kPageBytesHere + 2 * kRingBytes);
    static const auto own_pid = static_cast<std::uint32_t>(getpid());
    fuzz::Input input(data, size);
    const std::size_t table_bytes = input.take<std::uint16_t>();
    const std::size_t steps = input.take<std::uint8_t>() % 4;
    table.fill(0, std::size_t{1} << 16, input.take_bytes(table_bytes));
    if (table_bytes == 0) {
        write_sane_table(table, own_pid);
    }
    write_ring(ring, input);

    // The kernel does not map more of a ring than there is.
    std::uint64_t ring_bytes = 0;
    std::memcpy(&ring_bytes, table.data() + offsetof(echion_table, snapshot_ring_bytes),
                sizeof(ring_bytes));
    sampling::CpuWatch watch;
    const int ring_fd = ring_bytes <= kRingBytes ? ring.fd() : -1;
    const std::int64_t clock_ahead_ns = steps % 2 == 0 ? 0 : INT64_MIN;
    sampling::ProcessFacts facts;
    facts.sampler_tid = own_pid + 1;
    facts.io_tid = own_pid + 2;
    facts.helper_tids = {own_pid + 3, own_pid};
    facts.is_late = steps % 2 != 0;
    if (!watch.open(table.fd(), kTarget, clock_ahead_ns, ring_fd, facts)) {
        return 0;
    }
    static const auto thread = std::make_unique<sampling::TrackedThread>();
    *thread = {};
    thread->slot = sampling::TrackedThread::kNoSlot;
    thread->state = Address(kThreadState);
    thread->native_id = own_pid;
    watch.attach(*thread);
    for (std::size_t i = 0; i <= steps; ++i) {
        look(watch, *thread);
    }
    watch.detach(*thread);
    return 0;
}
