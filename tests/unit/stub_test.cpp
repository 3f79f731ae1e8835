// The code that runs in targets, run here from a copy at another address: so a reference to
// anything outside itself shows.

#include "inject/stub.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace echion::inject {
namespace {

template <typename Function>
std::uintptr_t address_of(Function* function) {
    return reinterpret_cast<std::uintptr_t>(function);
}

constexpr int kLowestFd = 100;

std::atomic<int> attached_fd{-1};

int note_attach(int fd) {
    attached_fd.store(fd);
    return 0;
}

int refuse_attach(int fd) {
    close(fd);
    return EBUSY;
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

}  // namespace
}  // namespace echion::inject
