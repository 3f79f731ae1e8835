#include "platform/process_reader.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/mapping.h"

namespace echion {
namespace {

Address address_of(const void* place) { return Address(reinterpret_cast<std::uintptr_t>(place)); }

/// Refuses a system call to the calling thread, for the rest of its life.
void refuse(long system_call) {
    sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(system_call), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{std::size(program), program};
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

class ProcessReaderTest : public testing::Test {
  protected:
    static constexpr std::size_t kPage = 4096;

    void SetUp() override {
        // Two pages and a hole behind them.
        void* place =
            mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(place, MAP_FAILED);
        memory_ = Mapping(place, 2 * kPage);
        ASSERT_EQ(munmap(memory_.data() + 2 * kPage, kPage), 0);
        std::memset(memory_.data(), 'a', kPage);
        std::memset(memory_.data() + kPage, 'b', kPage);
        ASSERT_TRUE(reader_.open(getpid(), at(0)));
    }
    [[nodiscard]] Address at(std::size_t offset) const {
        return address_of(memory_.data() + offset);
    }
    [[nodiscard]] Address hole() const { return at(2 * kPage); }

    /// The promises of MemoryReader::read(), whichever way it takes.
    void check_partial_reads() {
        char first[4] = {};
        char second[4] = {};
        const ReadRequest good[] = {{at(kPage - 2), first, 4}, {at(0), second, 2}};
        EXPECT_EQ(reader_.read(good), 2U);
        EXPECT_EQ(std::string(first, 4), "aabb");
        EXPECT_EQ(std::string(second, 2), "aa");
        const ReadRequest bad_first[] = {{hole(), first, 4}, {at(0), second, 2}};
        EXPECT_EQ(reader_.read(bad_first), 0U);
        const ReadRequest bad_second[] = {{at(0), first, 4}, {hole(), second, 2}};
        EXPECT_EQ(reader_.read(bad_second), 1U);
        const ReadRequest half[] = {{at(0), first, 4}, {at(2 * kPage - 2), second, 4}};
        EXPECT_EQ(reader_.read(half), 1U) << "half a range is no range";
        EXPECT_EQ(reader_.read({}), 0U);
    }
    void check_empty_ranges() {
        char byte = 0;
        const ReadRequest only_empty[] = {{at(0), &byte, 0}};
        EXPECT_EQ(reader_.read(only_empty), 1U);
        const ReadRequest among[] = {{at(0), &byte, 0}, {at(0), &byte, 1}, {hole(), &byte, 0}};
        EXPECT_EQ(reader_.read(among), 3U);
        EXPECT_EQ(byte, 'a');
    }
    void check_many() {
        constexpr std::size_t kMany = 1000;  // more than one system call takes
        std::vector<char> into(kMany);
        std::vector<ReadRequest> requests;
        for (std::size_t i = 0; i < kMany; ++i) {
            requests.push_back({at(i < 700 ? i : kPage + i), &into[i], 1});
        }
        EXPECT_EQ(reader_.read(requests), kMany);
        EXPECT_EQ(std::string(into.begin(), into.end()),
                  std::string(700, 'a') + std::string(300, 'b'));
        requests[600].from = hole();
        EXPECT_EQ(reader_.read(requests), 600U);
    }

    Mapping memory_;
    ProcessReader reader_;
};

TEST_F(ProcessReaderTest, CountsTheRequestsInFrontOfTheOneThatFails) {
    check_partial_reads();
    EXPECT_STREQ(reader_.method(), "process_vm_writev");
}

TEST_F(ProcessReaderTest, AnAddressThatNoProcessHasSpoilsNoOther) {
    char first = 0;
    char second = 0;
    const Address nowhere(~std::uintptr_t{0} - 0xfff);
    const ReadRequest requests[] = {{at(0), &first, 1}, {nowhere, &second, 1}, {at(1), &second, 1}};
    EXPECT_EQ(reader_.read(requests), 1U);
    EXPECT_EQ(first, 'a');
    EXPECT_EQ(reader_.read({requests + 1, 2}), 0U);
    EXPECT_STREQ(reader_.method(), "process_vm_writev");
}

TEST_F(ProcessReaderTest, ReadsAnotherProcess) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        pause();
        _exit(0);
    }
    ASSERT_TRUE(reader_.open(child, at(0)));
    check_partial_reads();
    check_many();
    EXPECT_STREQ(reader_.method(), "process_vm_readv");
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
}

TEST_F(ProcessReaderTest, ReadsWhereOnlyWritingIsRefused) {
    std::thread([this] {
        refuse(SYS_process_vm_writev);
        check_partial_reads();
        EXPECT_STREQ(reader_.method(), "process_vm_readv");
    }).join();
}

TEST_F(ProcessReaderTest, AnEmptyRangeIsComplete) { check_empty_ranges(); }

TEST_F(ProcessReaderTest, TakesMoreRequestsThanOneSystemCallDoes) { check_many(); }

TEST_F(ProcessReaderTest, CopiesRangesInARowInOneSystemCall) {
    std::array<char, 8> into{};
    const ReadRequest requests[] = {{at(0), &into[0], 4}, {at(kPage), &into[4], 4}};
    const std::uint64_t calls = reader_.system_calls();
    EXPECT_EQ(reader_.read(requests), 2U);
    EXPECT_EQ(reader_.system_calls(), calls + 1);
    EXPECT_EQ(std::string(into.data(), into.size()), "aaaabbbb");
}

TEST_F(ProcessReaderTest, CopiesADirectRangeWithoutASystemCall) {
    reader_.set_direct_range(at(0), kPage);
    std::array<char, 4> into{};
    const std::uint64_t calls = reader_.system_calls();
    EXPECT_TRUE(reader_.read_bytes(at(kPage - 4), into.data(), 4));
    EXPECT_EQ(reader_.system_calls(), calls);
    EXPECT_EQ(std::string(into.data(), into.size()), "aaaa");
    // Where it ends, the system is asked.
    EXPECT_TRUE(reader_.read_bytes(at(kPage - 2), into.data(), 4));
    EXPECT_EQ(reader_.system_calls(), calls + 1);
    EXPECT_EQ(std::string(into.data(), into.size()), "aabb");
}

TEST_F(ProcessReaderTest, ADirectRangeBehindAFailureIsNotCopied) {
    reader_.set_direct_range(at(0), kPage);
    char before = 0;
    char behind = 0;
    char failed = 0;
    const ReadRequest requests[] = {{at(0), &before, 1}, {hole(), &failed, 1}, {at(1), &behind, 1}};
    EXPECT_EQ(reader_.read(requests), 1U);
    EXPECT_EQ(before, 'a');
    EXPECT_EQ(behind, 0) << "copied in its turn, or not at all";
}

TEST_F(ProcessReaderTest, ReadsTheMemFileWhereTheSystemCallIsRefused) {
    std::thread([this] {
        refuse(SYS_process_vm_writev);
        refuse(SYS_process_vm_readv);
        ASSERT_TRUE(reader_.open(getpid(), at(0)));
        EXPECT_STREQ(reader_.method(), "/proc/PID/mem");
        check_partial_reads();
        check_empty_ranges();
        check_many();
    }).join();
}

TEST_F(ProcessReaderTest, GoesOnWithTheMemFileWhenTheSystemCallIsRefusedLater) {
    std::thread([this] {
        char byte = 0;
        ASSERT_TRUE(reader_.read_bytes(at(0), &byte, 1));
        ASSERT_STREQ(reader_.method(), "process_vm_writev");
        refuse(SYS_process_vm_writev);
        refuse(SYS_process_vm_readv);
        check_partial_reads();
        EXPECT_STREQ(reader_.method(), "/proc/PID/mem");
    }).join();
}

TEST_F(ProcessReaderTest, SaysSoWhenNeitherWayIsAllowed) {
    std::thread([this] {
        refuse(SYS_process_vm_writev);
        refuse(SYS_process_vm_readv);
        refuse(SYS_openat);
        const auto status = reader_.open(getpid(), at(0));
        ASSERT_FALSE(status);
        EXPECT_EQ(status.error().kind, ErrorKind::kRefused);
        EXPECT_EQ(status.error().system_errno, EPERM);
        // And does not try again with each read.
        const std::uint64_t calls = reader_.system_calls();
        char byte = 0;
        EXPECT_FALSE(reader_.read_bytes(at(0), &byte, 1));
        EXPECT_EQ(reader_.system_calls(), calls + 1);
    }).join();
}

TEST_F(ProcessReaderTest, AProcessThatIsGoneCannotBeRead) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        _exit(0);
    }
    siginfo_t info{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED), 0);
    EXPECT_FALSE(reader_.open(child, at(0)));
}

}  // namespace
}  // namespace echion
