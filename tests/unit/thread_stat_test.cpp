// What the kernel shows of a thread's scheduling.

#include "platform/thread_stat.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

namespace echion {
namespace {

const std::string kTail =
    " 1 4711 4711 0 -1 4194560 1000 0 0 0 12 3 0 0 20 0 1 0 900 0 0 18446744073709551615 0 0 0 0 0 "
    "0 0 0 0 0 0 0 17 5 0 0 0 0 0";

TEST(ThreadStat, IsParsed) {
    const auto stat = parse_thread_stat("4711 (python3) S" + kTail);
    ASSERT_TRUE(stat);
    EXPECT_STREQ(stat->name, "python3");
    EXPECT_EQ(stat->state, 'S');
    EXPECT_EQ(stat->cpu, 5U);
    EXPECT_EQ(stat->cpu_ticks, 15);
}

TEST(ThreadStat, AllowsAnythingInAName) {
    const auto stat = parse_thread_stat("4711 (a) R 9 (b) T" + kTail);
    ASSERT_TRUE(stat);
    EXPECT_STREQ(stat->name, "a) R 9 (b");
    EXPECT_EQ(stat->state, 'T');
}

TEST(ThreadStat, RefusesOtherTexts) {
    EXPECT_FALSE(parse_thread_stat(""));
    EXPECT_FALSE(parse_thread_stat("4711 python3 S 1 2"));
    EXPECT_FALSE(parse_thread_stat("4711 )python3( S" + kTail));
    EXPECT_FALSE(parse_thread_stat("4711 (python3) S 1 4711"));
    EXPECT_FALSE(parse_thread_stat("4711 (python3) S 1 4711 4711 0 -1 4194560 1000 0 0 0 x 3 0"));
    EXPECT_FALSE(parse_thread_stat("4711 (python3)"));
}

TEST(ThreadStat, IsReadOfARunningThread) {
    const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
    const auto stat = read_thread_stat(0, tid);
    ASSERT_TRUE(stat);
    EXPECT_EQ(stat->state, 'R');
    EXPECT_TRUE(read_thread_stat(getpid(), tid));
}

TEST(ThreadStat, IsAnErrorWithoutTheThread) {
    const auto stat = read_thread_stat(0, 1 << 30);
    ASSERT_FALSE(stat);
    EXPECT_EQ(stat.error().kind, ErrorKind::kSystem);
    EXPECT_FALSE(read_thread_run(0, 1 << 30));
}

TEST(ThreadRunTime, IsParsed) {
    const auto run = parse_thread_run("1200292 160919 2\n");
    ASSERT_TRUE(run);
    EXPECT_EQ(run->run_ns, 1200292);
    EXPECT_EQ(run->wait_ns, 160919);
    EXPECT_EQ(run->slices, 2);
}

TEST(ThreadRunTime, IsNotKnownWhenTheKernelDoesNotCount) {
    const auto run = parse_thread_run("0 0 0\n");
    ASSERT_FALSE(run);
    EXPECT_EQ(run.error().kind, ErrorKind::kNotReady);
}

TEST(ThreadRunTime, RefusesOtherTexts) {
    for (const char* text : {"", "\n", "1 2", "1 x 3", "-1 2 3", "99999999999999999999 1 1"}) {
        const auto run = parse_thread_run(text);
        ASSERT_FALSE(run) << text;
        EXPECT_EQ(run.error().kind, ErrorKind::kInvalid) << text;
    }
}

TEST(ThreadRunTime, GrowsWhenTheThreadHasRunAndLeft) {
    const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
    usleep(1);  // leaves the CPU, which is when the kernel counts
    const auto before = read_thread_run(0, tid);
    if (!before) {
        GTEST_SKIP() << "this kernel does not count run times";
    }
    usleep(1);
    const auto after = read_thread_run(0, tid);
    ASSERT_TRUE(after);
    EXPECT_GT(after->run_ns, before->run_ns);
    EXPECT_GT(after->slices, before->slices);
}

TEST(SchedulerTick, IsOneOfTheKernelsPeriods) {
    const std::int64_t tick_ns = scheduler_tick_ns();
    EXPECT_GE(tick_ns, 999'000);  // CONFIG_HZ=1000
    EXPECT_LE(tick_ns, 10'000'000);
}

}  // namespace
}  // namespace echion
