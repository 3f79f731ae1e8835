// The code that runs in targets, run here from a copy at another address: so a reference to
// anything outside itself shows.

#include "inject/stub.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/attach_part.h"
#include "base/unique_fd.h"
#include "inject/thread_descriptors.h"

namespace echion::inject {
namespace {

template <typename Function>
std::uintptr_t address_of(Function* function) {
    return reinterpret_cast<std::uintptr_t>(function);
}

constexpr int kLowestFd = 100;

std::atomic<int> attached_fd{-1};

int note_attach(int fd, int part) {
    EXPECT_EQ(part, kWholeAgent);
    attached_fd.store(fd);
    return 0;
}

int refuse_attach(int fd, int) {
    close(fd);
    return EBUSY;
}

bool has_own_table() {
    const auto own = static_cast<pid_t>(syscall(SYS_gettid));
    return syscall(SYS_kcmp, getpid(), own, KCMP_FILES, 0, 0) != 0;
}

// Calls of the two parts, in which order and where.
std::atomic<int> beside_calls{0};
std::atomic<int> apart_calls{0};
std::atomic<int> beside_answer{0};
std::atomic<int> apart_answer{0};

int answer_parts(int fd, int part) {
    if (part == kAgentBeside) {
        EXPECT_EQ(fd, -1);
        EXPECT_FALSE(has_own_table());
        EXPECT_EQ(apart_calls.load(), 0);
        ++beside_calls;
        return beside_answer.load();
    }
    EXPECT_EQ(part, kAgentApart);
    EXPECT_TRUE(has_own_table());
    EXPECT_EQ(beside_calls.load(), 1);
    ++apart_calls;
    // ThreadSanitizer, which sees the C library's functions, takes this number for the same one of
    // the test's own table.
    const char byte = 'h';
    EXPECT_EQ(syscall(SYS_write, fd, &byte, 1), 1);
    syscall(SYS_close, fd);
    return apart_answer.load();
}

int list_descriptors() {
    int found = 0;
    for (int fd = 0; fd < 1024; ++fd) {
        found += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
    }
    return found;
}

class StubHelper : public testing::Test {
  protected:
    void SetUp() override {
        void* region =
            mmap(nullptr, kRegionBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(region, MAP_FAILED);
        region_ = static_cast<std::byte*>(region);
        const StubCode code = stub_code();
        ASSERT_LE(code.size_bytes, kStubCodeBytes);
        std::memcpy(region_, code.start, code.size_bytes);
        ASSERT_EQ(mprotect(region_, kStubCodeBytes, PROT_READ | PROT_EXEC), 0);
        parameters_ = reinterpret_cast<StubParameters*>(region_ + kStubCodeBytes);
        parameters_->open_library = address_of(&dlopen);
        parameters_->find_symbol = address_of(&dlsym);
        parameters_->last_error = address_of(&dlerror);
        parameters_->unmap = address_of(&munmap);
        parameters_->region = address_of(region_);
        parameters_->lowest_fd = kLowestFd;
        parameters_->channel_fd = -1;
        parameters_->image_fd = -1;
        std::strcpy(parameters_->memory_file_name, "stub-test");
        std::strcpy(parameters_->library_path, "/proc/self/fd/");
        std::strcpy(parameters_->entry_name, "echion_attach");
        helper_ = reinterpret_cast<void* (*)(void*)>(region_ + code.helper_offset);
    }

    void start() { ASSERT_EQ(pthread_create(&thread_, nullptr, helper_, parameters_), 0); }

    void await(HelperState state) {
        while (parameters_->helper_state < state) {
            sched_yield();
        }
    }
    void send_packet() { ASSERT_EQ(send(parameters_->channel_fd, "x", 1, MSG_NOSIGNAL), 1); }

    /// Lets the helper take the region away, which ends its thread in the C library.
    void finish(HasLeft word = kNobodyReads) {
        parameters_->has_left = word;
        ASSERT_EQ(pthread_join(thread_, nullptr), 0);
        EXPECT_EQ(msync(region_, kRegionBytes, MS_ASYNC), -1) << "the region is still mapped";
    }

    std::byte* region_ = nullptr;
    StubParameters* parameters_ = nullptr;
    void* (*helper_)(void*) = nullptr;
    pthread_t thread_{};
};

TEST_F(StubHelper, CallsAnAgentThatIsThere) {
    parameters_->entry = address_of(&note_attach);
    start();
    await(kHelperReady);
    EXPECT_EQ(parameters_->image_fd, -1);
    EXPECT_GE(parameters_->channel_fd, kLowestFd);
    const int channel = dup(parameters_->channel_fd);
    send_packet();
    ASSERT_EQ(send(channel, "x", 1, MSG_NOSIGNAL), 1);
    await(kHelperDone);
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kAttached));
    EXPECT_EQ(send(attached_fd.load(), "hello", 5, MSG_NOSIGNAL), 5);
    char text[5];
    EXPECT_EQ(recv(channel, text, sizeof(text), 0), 5);
    finish();
    close(attached_fd.load());
    EXPECT_EQ(recv(channel, text, sizeof(text), 0), 0) << "a descriptor has been left open";
    close(channel);
}

TEST_F(StubHelper, ReportsWhatTheAgentAnswers) {
    parameters_->entry = address_of(&refuse_attach);
    start();
    await(kHelperReady);
    const int channel = dup(parameters_->channel_fd);
    send_packet();
    ASSERT_EQ(send(channel, "x", 1, MSG_NOSIGNAL), 1);
    await(kHelperDone);
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kCallEntry));
    EXPECT_EQ(parameters_->helper_error, EBUSY);
    char byte;
    EXPECT_EQ(recv(channel, &byte, 1, 0), 0);
    finish();
    close(channel);
}

TEST_F(StubHelper, ReportsTheLoadersMessage) {
    start();
    await(kHelperReady);
    const int channel = dup(parameters_->channel_fd);
    ASSERT_EQ(write(parameters_->image_fd, "not ELF", 7), 7);
    send_packet();
    ASSERT_EQ(send(channel, "x", 1, MSG_NOSIGNAL), 1);
    await(kHelperDone);
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kLoadLibrary));
    EXPECT_NE(std::strstr(parameters_->message, "file too short"), nullptr) << parameters_->message;
    finish();
    close(channel);
}

TEST_F(StubHelper, EndsWhenTheOtherSideHangsUp) {
    start();
    await(kHelperReady);
    const int channel = dup(parameters_->channel_fd);
    send_packet();
    close(channel);
    await(kHelperDone);
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kWaitForImage));
    finish(kThreadHasLeft);  // nobody is left who would say more
}

/// The same with a second helper, in a descriptor table of its own.
class StubHelperApart : public StubHelper {
  protected:
    void SetUp() override {
        StubHelper::SetUp();
        parameters_->attributes_init = address_of(&pthread_attr_init);
        parameters_->attributes_stack = address_of(&pthread_attr_setstacksize);
        parameters_->attributes_detached = address_of(&pthread_attr_setdetachstate);
        parameters_->create_thread = address_of(&pthread_create);
        parameters_->join_thread = address_of(&pthread_join);
        parameters_->helper_stack_bytes = 1U << 20;
        parameters_->wants_own_table = 1;
        parameters_->entry = address_of(&answer_parts);
        std::strcpy(parameters_->library_path, "/proc/thread-self/fd/");
        beside_calls = apart_calls = beside_answer = apart_answer = 0;
    }
    /// One of the helper's descriptors.
    UniqueFd fetch(int number) const {
        const UniqueFd thread(
            static_cast<int>(syscall(SYS_pidfd_open, parameters_->helper_tid, O_EXCL)));
        return UniqueFd(static_cast<int>(syscall(SYS_pidfd_getfd, thread.get(), number, 0)));
    }
    /// Starts the helper, and goes on until it has all that it waits for.
    void run() {
        start();
        await(kHelperReady);
        ASSERT_GT(parameters_->helper_tid, 0);
        channel_ = fetch(parameters_->channel_fd);
        ASSERT_TRUE(channel_) << std::strerror(errno);
        EXPECT_GE(parameters_->channel_fd, 3);
        ASSERT_EQ(send(channel_.get(), "x", 1, MSG_NOSIGNAL), 1);
        ASSERT_EQ(send(channel_.get(), "x", 1, MSG_NOSIGNAL), 1);
        await(kHelperDone);
    }
    [[nodiscard]] ssize_t receive() const {
        char byte;
        return recv(channel_.get(), &byte, 1, 0);
    }

    UniqueFd channel_;
};

#define SKIP_WITHOUT_THREAD_DESCRIPTORS()                              \
    if (!ThreadDescriptors::are_supported()) {                         \
        GTEST_SKIP() << "the kernel has no PIDFD_THREAD (before 6.9)"; \
    }

TEST_F(StubHelperApart, StartsBothParts) {
    SKIP_WITHOUT_THREAD_DESCRIPTORS();
    run();
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kAttached));
    EXPECT_EQ(apart_calls.load(), 1);
    finish();
    EXPECT_EQ(receive(), 1);
    EXPECT_EQ(receive(), 0) << "a descriptor has been left open";
}

TEST_F(StubHelperApart, StartsNeitherPartIfTheFirstIsRefused) {
    SKIP_WITHOUT_THREAD_DESCRIPTORS();
    beside_answer = EBUSY;
    run();
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kCallEntry));
    EXPECT_EQ(parameters_->helper_error, EBUSY);
    EXPECT_EQ(apart_calls.load(), 0);
    EXPECT_EQ(receive(), 0);
    finish();
}

TEST_F(StubHelperApart, ReportsWhatTheOtherPartAnswers) {
    SKIP_WITHOUT_THREAD_DESCRIPTORS();
    apart_answer = EAGAIN;
    run();
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kCallEntry));
    EXPECT_EQ(parameters_->helper_error, EAGAIN);
    finish();
}

TEST_F(StubHelperApart, TakesNoDescriptorOfTheProgram) {
    SKIP_WITHOUT_THREAD_DESCRIPTORS();
    const int before = list_descriptors();
    parameters_->entry = 0;
    start();
    await(kHelperReady);
    EXPECT_EQ(list_descriptors(), before);
    const UniqueFd channel = fetch(parameters_->channel_fd);
    const UniqueFd image = fetch(parameters_->image_fd);
    ASSERT_EQ(write(image.get(), "not ELF", 7), 7);
    ASSERT_EQ(send(channel.get(), "x", 1, MSG_NOSIGNAL), 1);
    ASSERT_EQ(send(channel.get(), "x", 1, MSG_NOSIGNAL), 1);
    await(kHelperDone);
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kLoadLibrary));
    EXPECT_NE(std::strstr(parameters_->message, "file too short"), nullptr) << parameters_->message;
    finish();
}

TEST_F(StubHelperApart, EndsWhenTheOtherSideHangsUp) {
    SKIP_WITHOUT_THREAD_DESCRIPTORS();
    start();
    await(kHelperReady);
    UniqueFd channel = fetch(parameters_->channel_fd);
    ASSERT_EQ(send(channel.get(), "x", 1, MSG_NOSIGNAL), 1);
    channel.reset();
    await(kHelperDone);
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kWaitForImage));
    finish(kThreadHasLeft);
}

int make_no_thread(void*, void*, std::uintptr_t, void*) { return EAGAIN; }

TEST_F(StubHelperApart, DoesWithoutItIfNoSecondThreadCanBeMade) {
    parameters_->create_thread = address_of(&make_no_thread);
    parameters_->entry = address_of(&note_attach);
    start();
    await(kHelperReady);
    EXPECT_EQ(parameters_->helper_tid, 0);
    EXPECT_GE(parameters_->channel_fd, kLowestFd);
    const int channel = dup(parameters_->channel_fd);
    send_packet();
    ASSERT_EQ(send(channel, "x", 1, MSG_NOSIGNAL), 1);
    await(kHelperDone);
    EXPECT_EQ(parameters_->helper_step, static_cast<std::uint32_t>(HelperStep::kAttached));
    finish();
    close(attached_fd.load());
    close(channel);
}

}  // namespace
}  // namespace echion::inject
