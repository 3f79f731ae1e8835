// What tells one program from the next in a process, and a thread of the kernel from one that ends.
#include "platform/program_image.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "platform/process_info.h"

namespace echion {
namespace {

TEST(ParseProgramPlaces, ReadsThemBehindAnyName) {
    const std::string text =
        "7 (a) b ( c) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 "
        "31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49\n";
    EXPECT_EQ(parse_program_places(text), (std::array<std::uint64_t, 6>{26, 27, 28, 45, 46, 47}));
    EXPECT_EQ(parse_program_places("7 (a) S 4"), (std::array<std::uint64_t, 6>{}));
    EXPECT_EQ(parse_program_places(""), (std::array<std::uint64_t, 6>{}));
}

TEST(ParseExitStatus, ReadsItBehindAnyName) {
    std::string text = "7 (a) b ( c) Z";
    for (int field = 4; field <= 52; ++field) {
        text += " " + std::to_string(field == 52 ? 6 << 8 : field);
    }
    EXPECT_EQ(parse_exit_status(text + "\n"), 6 << 8);
    EXPECT_EQ(parse_exit_status("7 (a) Z 4"), 0);
    EXPECT_EQ(parse_exit_status(""), 0);
}

TEST(FirstThread, IsKnownByItsStatusWhenItHasEndedBeforeOthers) {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer has a thread of its own, which stays";
#endif
    const pid_t child = fork();
    if (child == 0) {
        std::thread([] {
            while (look_at_other_threads(0, 0) == OtherThreads::kFirst) {
                std::this_thread::yield();
            }
            const bool is_right = look_at_other_threads(0, 0) == OtherThreads::kWithoutFirst &&
                                  look_at_other_threads(0, 1) == OtherThreads::kNone &&
                                  read_first_thread_status(0) == 6 << 8;
            _exit(is_right ? 0 : 1);
        }).detach();
        syscall(SYS_exit, 6);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(read_first_thread_status(getpid()), 0);
}

TEST(EndingProcess, IsOneThatHasNoMemoryAnyMoreOrIsGone) {
    EXPECT_FALSE(is_ending(getpid()));
    const pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    siginfo_t info{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
    EXPECT_TRUE(is_ending(child));
    waitpid(child, nullptr, 0);
    EXPECT_TRUE(is_ending(child));
}

TEST(ProgramImage, IsTheSameAtEachLook) {
    const auto looked = look_at_program(getpid());
    ASSERT_TRUE(looked);
    const ProgramImage& image = *looked;
    EXPECT_NE(image.executable_inode, 0U);
    EXPECT_NE(image.stack(), 0U);
    EXPECT_FALSE(image.is_hidden);
    EXPECT_EQ(look_at_program(getpid()).value(), image);
}

TEST(ProgramImage, OfAProcessThatHasEndedHoldsNothing) {
    const pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    siginfo_t info{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
    const auto looked = look_at_program(child);
    ASSERT_TRUE(looked);
    const ProgramImage& image = *looked;
    EXPECT_EQ(image.executable_inode, 0U);
    EXPECT_EQ(image.stack(), 0U);
    EXPECT_FALSE(image.is_hidden);
    ASSERT_FALSE(read_process_info(child)->has_memory);
    EXPECT_FALSE(is_kernel_thread(child)) << "a zombie";
    waitpid(child, nullptr, 0);
    EXPECT_FALSE(is_kernel_thread(child)) << "nothing";
}

TEST(ProcessDescent, TellsAForkFromAnExecAlsoBehindTheEnd) {
    const pid_t forked = fork();
    if (forked == 0) {
        _exit(0);
    }
    const pid_t executed = fork();
    if (executed == 0) {
        execl("/bin/true", "true", nullptr);
        _exit(1);
    }
    for (const pid_t child : {forked, executed}) {
        siginfo_t info{};
        ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
        const auto descent = read_descent(child);
        ASSERT_TRUE(descent);
        EXPECT_EQ(descent->parent_pid, getpid());
        EXPECT_NE(descent->start_ticks, 0U);
        EXPECT_TRUE(descent->has_ended);
        EXPECT_EQ(descent->runs_parents_program, child == forked);
        waitpid(child, nullptr, 0);
    }
    EXPECT_FALSE(read_descent(getpid())->has_ended);
    EXPECT_FALSE(read_descent(forked));
}

TEST(ProcessDescent, OfATextThatIsNoneIsEmpty) {
    for (const char* text : {"", ")", ") ", "1 (a", "1 (Z) S"}) {
        EXPECT_FALSE(parse_descent(text).has_ended) << text;
    }
    EXPECT_TRUE(parse_descent("1 (a) Z 7").has_ended);
    EXPECT_EQ(parse_descent("1 (a) b) S 7").parent_pid, 7);
}

TEST(KernelThread, IsKnownByItsFlag) {
    EXPECT_FALSE(is_kernel_thread(getpid()));
    const auto second = read_process_info(2);
    if (!second || std::string(second->name) != "kthreadd") {
        GTEST_SKIP() << "no threads of the kernel to be seen here";
    }
    EXPECT_TRUE(is_kernel_thread(2));
}

}  // namespace
}  // namespace echion
