// The agent's readers of BPF memory, on tables and rings made here.
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/unique_fd.h"
#include "engine/bpf/cpu_state_map.h"
#include "engine/bpf/snapshot_ring.h"

namespace echion::engine {
namespace {

constexpr std::uint32_t kCapacity = 70;  // 3 entries of stamps
constexpr std::uint32_t kFirstThread = 4;

/// A file that looks like the map's memory.
class Table {
  public:
    Table() : fd_(::memfd_create("table", MFD_CLOEXEC)) {
        const std::size_t size_bytes = 4 * 4096;
        EXPECT_EQ(::ftruncate(fd_.get(), size_bytes), 0);
        mapping_ =
            Mapping(::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0),
                    size_bytes);
        header() = echion_table{};
        header().magic = ECHION_ABI_MAGIC;
        header().version = ECHION_ABI_VERSION;
        header().thread_capacity = kCapacity;
        header().first_stamp_entry = 1;
        header().first_thread_entry = kFirstThread;
        header().snapshot_ring_bytes = 4096;
    }
    [[nodiscard]] int fd() const { return fd_.get(); }
    echion_table& header() { return *reinterpret_cast<echion_table*>(mapping_.data()); }
    std::uint32_t& stamp(std::size_t slot) {
        return reinterpret_cast<std::uint32_t*>(mapping_.data() + ECHION_ENTRY_BYTES)[slot];
    }
    echion_thread& thread(std::size_t slot) {
        return reinterpret_cast<echion_thread*>(mapping_.data() +
                                                kFirstThread * ECHION_ENTRY_BYTES)[slot];
    }
    void add_thread(std::uint32_t pid, std::uint32_t tid) {
        echion_thread& added = thread(header().threads_used++);
        added.generation = 1;
        added.state = ECHION_THREAD_LIVE;
        added.target_pid = pid;
        added.target_tid = tid;
    }

  private:
    UniqueFd fd_;
    Mapping mapping_;
};

TEST(CpuStateMap, RefusesWhatIsNotATable) {
    Table table;
    table.header().magic = 1;
    EXPECT_EQ(CpuStateMap::open(table.fd()).error().kind, ErrorKind::kInvalid);
}

TEST(CpuStateMap, RefusesAnotherVersion) {
    Table table;
    table.header().version = ECHION_ABI_VERSION + 1;
    EXPECT_EQ(CpuStateMap::open(table.fd()).error().kind, ErrorKind::kProtocol);
}

TEST(CpuStateMap, RefusesSizesThatContradictEachOther) {
    for (const std::uint32_t capacity : {0U, kCapacity + 100, ECHION_MAX_THREADS + 1, ~0U}) {
        Table table;
        table.header().thread_capacity = capacity;
        EXPECT_FALSE(CpuStateMap::open(table.fd())) << capacity;
    }
}

TEST(CpuStateMap, FindsALivingThreadByItsNumbers) {
    Table table;
    table.add_thread(10, 10);
    table.add_thread(10, 11);
    table.add_thread(20, 11);  // the same number in another namespace
    const auto map = CpuStateMap::open(table.fd());
    ASSERT_TRUE(map);
    EXPECT_EQ(map->find_slot(10, 11).value(), 1U);
    EXPECT_EQ(map->find_slot(20, 11).value(), 2U);
    EXPECT_FALSE(map->find_slot(10, 12));
    table.thread(1).state = ECHION_THREAD_ENDED;
    EXPECT_FALSE(map->find_slot(10, 11));
}

TEST(CpuStateMap, TellsTimesByTheClockOfWhoReads) {
    Table table;
    table.add_thread(10, 10);
    echion_thread& thread = table.thread(0);
    thread.started_ns = 100;
    thread.program_ns = 150;
    thread.on_cpu_since_ns = 300;
    thread.off_cpu_since_ns = 250;
    thread.on_cpu_ns = 7;  // no time of a clock
    for (const std::int64_t ahead_ns : {0, 900, -90}) {
        const auto map = CpuStateMap::open(table.fd(), ahead_ns);
        ASSERT_TRUE(map);
        const auto state = map->read(0);
        ASSERT_TRUE(state);
        EXPECT_EQ(state->started_ns, 100 + ahead_ns);
        EXPECT_EQ(state->program_ns, 150 + ahead_ns);
        EXPECT_EQ(state->on_cpu_since_ns, 300 + ahead_ns);
        EXPECT_EQ(state->off_cpu_since_ns, 250 + ahead_ns);
        EXPECT_EQ(state->ended_ns, 0U) << "it lives";
        EXPECT_EQ(state->on_cpu_ns, 7U);
        EXPECT_EQ(state->cpu_ns_at(static_cast<std::uint64_t>(310 + ahead_ns)), 17U);
    }
}

TEST(CpuStateMap, WhatWasBeforeTheReadersClockIsItsBeginning) {
    Table table;
    table.add_thread(10, 10);
    table.thread(0).started_ns = 100;
    table.thread(0).program_ns = 200;
    table.thread(0).on_cpu_since_ns = ECHION_SINCE_UNKNOWN;
    const auto map = CpuStateMap::open(table.fd(), -200);
    ASSERT_TRUE(map);
    const auto state = map->read(0);
    ASSERT_TRUE(state);
    EXPECT_EQ(state->started_ns, 1U);
    EXPECT_EQ(state->program_ns, 1U);
    EXPECT_FALSE(state->is_on_cpu());
}

TEST(CpuStateMap, VisitsChangedAndRunningSlotsOnly) {
    Table table;
    for (std::uint32_t i = 0; i < 4; ++i) {
        table.add_thread(10, 10 + i);
    }
    table.stamp(0) = 2;
    table.stamp(2) = 5;  // odd: running
    const auto map = CpuStateMap::open(table.fd());
    ASSERT_TRUE(map);
    std::vector<CpuStateMap::Stamp> seen(map->capacity());
    std::vector<std::uint32_t> visited;
    const auto visit = [&](std::uint32_t slot, CpuStateMap::Stamp) { visited.push_back(slot); };
    map->for_each_changed(seen, visit);
    EXPECT_EQ(visited, (std::vector<std::uint32_t>{0, 2}));
    visited.clear();
    map->for_each_changed(seen, visit);
    EXPECT_EQ(visited, (std::vector<std::uint32_t>{2}));
}

TEST(CpuStateMap, CountsTheTimeSinceTheSwitchIn) {
    Table table;
    table.add_thread(10, 10);
    table.thread(0).on_cpu_ns = 1000;
    table.thread(0).on_cpu_since_ns = 50'000;
    const auto map = CpuStateMap::open(table.fd());
    ASSERT_TRUE(map);
    const auto state = map->read(0);
    ASSERT_TRUE(state);
    EXPECT_TRUE(state->is_on_cpu());
    EXPECT_EQ(state->cpu_ns_at(50'300), 1300U);
    EXPECT_EQ(state->cpu_ns_at(49'000), 1000U);  // a clock read before the switch
}

TEST(CpuStateMap, GivesUpOnASlotThatIsAlwaysBeingWritten) {
    Table table;
    table.add_thread(10, 10);
    table.thread(0).sequence = 7;
    const auto map = CpuStateMap::open(table.fd());
    ASSERT_TRUE(map);
    EXPECT_EQ(map->read(0).error().kind, ErrorKind::kTorn);
}

TEST(CpuStateMap, NeverLooksBeyondTheTable) {
    Table table;
    table.header().threads_used = ~0U;
    const auto map = CpuStateMap::open(table.fd());
    ASSERT_TRUE(map);
    EXPECT_EQ(map->used(), kCapacity);
    EXPECT_FALSE(map->read(kCapacity));
    EXPECT_FALSE(map->find_slot(1, 1));
}

/// A file that looks like the memory of a BPF ring buffer of one page.
class RingFile {
  public:
    static constexpr std::size_t kPage = 4096;
    static constexpr std::size_t kDataBytes = kPage;

    RingFile() : fd_(::memfd_create("ring", MFD_CLOEXEC)) {
        const std::size_t size_bytes = 2 * kPage + 2 * kDataBytes;
        EXPECT_EQ(::ftruncate(fd_.get(), size_bytes), 0);
        mapping_ =
            Mapping(::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0),
                    size_bytes);
    }
    [[nodiscard]] int fd() const { return fd_.get(); }
    std::uint64_t& consumer() { return *reinterpret_cast<std::uint64_t*>(mapping_.data()); }
    std::uint64_t& producer() { return *reinterpret_cast<std::uint64_t*>(mapping_.data() + kPage); }
    void append(std::uint32_t flags, const echion_snapshot& head, std::uint32_t size_bytes) {
        // Both copies of the data, as the kernel's two mappings of one memory show it.
        for (std::size_t copy = 0; copy < 2; ++copy) {
            std::byte* base = mapping_.data() + 2 * kPage;
            const std::size_t at = (producer() & (kDataBytes - 1)) + copy * kDataBytes;
            if (at + 8 + sizeof(head) <= 2 * kDataBytes) {
                const std::uint32_t header = size_bytes | flags;
                std::memcpy(base + at, &header, sizeof(header));
                std::memcpy(base + at + 8, &head, sizeof(head));
            }
        }
        producer() += (size_bytes + 8 + 7) & ~7U;
    }

  private:
    UniqueFd fd_;
    Mapping mapping_;
};

std::vector<std::uint32_t> drain_slots(SnapshotRing& ring) {
    std::vector<std::uint32_t> slots;
    const auto drained =
        ring.drain([&](const SnapshotView& view) { slots.push_back(view.head.slot); });
    EXPECT_TRUE(drained);
    return slots;
}

echion_snapshot make_snapshot(std::uint32_t slot, std::uint16_t frame_count) {
    echion_snapshot head{};
    head.slot = slot;
    head.frame_count = frame_count;
    return head;
}

TEST(SnapshotRing, HandsOutRecordsInOrderAcrossTheWrap) {
    RingFile file;
    auto ring = SnapshotRing::open(file.fd(), RingFile::kDataBytes);
    ASSERT_TRUE(ring);
    std::uint32_t written = 0;
    std::uint32_t read = 0;
    for (int round = 0; round < 100; ++round) {
        for (int i = 0; i < 3; ++i) {
            file.append(0, make_snapshot(written++, 40),
                        sizeof(echion_snapshot) + 40 * sizeof(echion_frame));
        }
        for (const std::uint32_t slot : drain_slots(*ring)) {
            EXPECT_EQ(slot, read++);
        }
        EXPECT_EQ(file.consumer(), file.producer());
    }
    EXPECT_EQ(read, written);
}

TEST(SnapshotRing, TellsTimesByTheClockOfWhoReads) {
    RingFile file;
    auto ring = SnapshotRing::open(file.fd(), RingFile::kDataBytes, -90);
    ASSERT_TRUE(ring);
    echion_snapshot head = make_snapshot(1, 0);
    head.time_ns = 100;
    file.append(0, head, sizeof(head));
    std::int64_t time_ns = 0;
    ASSERT_EQ(ring->drain([&](const SnapshotView& view) { time_ns = view.time_ns; }).value(), 1U);
    EXPECT_EQ(time_ns, 10);
}

TEST(SnapshotRing, LeavesARecordThatIsStillBeingWritten) {
    RingFile file;
    auto ring = SnapshotRing::open(file.fd(), RingFile::kDataBytes);
    ASSERT_TRUE(ring);
    file.append(0, make_snapshot(1, 0), sizeof(echion_snapshot));
    file.append(BPF_RINGBUF_BUSY_BIT, make_snapshot(2, 0), sizeof(echion_snapshot));
    EXPECT_EQ(drain_slots(*ring), (std::vector<std::uint32_t>{1}));
    EXPECT_LT(file.consumer(), file.producer());
}

TEST(SnapshotRing, SkipsADiscardedRecord) {
    RingFile file;
    auto ring = SnapshotRing::open(file.fd(), RingFile::kDataBytes);
    ASSERT_TRUE(ring);
    file.append(BPF_RINGBUF_DISCARD_BIT, make_snapshot(1, 0), sizeof(echion_snapshot));
    file.append(0, make_snapshot(2, 0), sizeof(echion_snapshot));
    EXPECT_EQ(drain_slots(*ring), (std::vector<std::uint32_t>{2}));
}

TEST(SnapshotRing, RefusesAPositionThatTheRingCannotHave) {
    for (const std::uint64_t written : {8ULL, 4096ULL + RingFile::kDataBytes + 8, 1ULL << 63U}) {
        RingFile file;
        file.consumer() = 4096;
        auto ring = SnapshotRing::open(file.fd(), RingFile::kDataBytes);
        ASSERT_TRUE(ring);
        // Each record is one to pass over, so that only the position can end the walk.
        for (std::size_t i = 0; i < RingFile::kDataBytes / 8; ++i) {
            file.append(BPF_RINGBUF_DISCARD_BIT, make_snapshot(1, 0), 0);
        }
        file.producer() = written;
        EXPECT_FALSE(ring->drain([](const SnapshotView&) { FAIL(); })) << written;
        EXPECT_EQ(file.consumer(), written);
    }
}

TEST(SnapshotRing, RefusesAPositionWhereNoRecordBegins) {
    RingFile file;
    file.consumer() = file.producer() = 6;
    auto ring = SnapshotRing::open(file.fd(), RingFile::kDataBytes);
    ASSERT_TRUE(ring);
    file.append(0, make_snapshot(1, 0), sizeof(echion_snapshot));
    EXPECT_FALSE(ring->drain([](const SnapshotView&) { FAIL(); }));
    EXPECT_EQ(file.consumer(), file.producer());
}

TEST(SnapshotRing, RefusesRecordsThatClaimMoreThanThereIs) {
    const struct {
        std::uint16_t frame_count;
        std::uint32_t size_bytes;
    } cases[] = {
        {1, sizeof(echion_snapshot)}, {0, 4}, {ECHION_SNAPSHOT_FRAMES + 1, 4000}, {0, 0x10000000}};
    for (const auto& broken : cases) {
        RingFile file;
        auto ring = SnapshotRing::open(file.fd(), RingFile::kDataBytes);
        ASSERT_TRUE(ring);
        file.append(0, make_snapshot(1, broken.frame_count), broken.size_bytes);
        const auto drained = ring->drain([](const SnapshotView&) { FAIL(); });
        ASSERT_FALSE(drained) << broken.size_bytes;
        EXPECT_EQ(file.consumer(), file.producer());
        file.append(0, make_snapshot(2, 0), sizeof(echion_snapshot));
        if (broken.size_bytes < RingFile::kDataBytes) {
            EXPECT_EQ(drain_slots(*ring), (std::vector<std::uint32_t>{2}));
        }
    }
}

}  // namespace
}  // namespace echion::engine
