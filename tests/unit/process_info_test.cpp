#include "platform/process_info.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <set>
#include <string>

#include "platform/process_modules.h"

namespace echion {
namespace {

TEST(ParseProcessStatus, KeepsTheFieldsThatAreThere) {
    const auto info = parse_process_status(
        "Name:\tpy thon: x\nState:\tS (sleeping)\nPid:\t812\nTracerPid:\t77\n"
        "Uid:\t1000\t1001\t1002\t1003\nNSpid:\t812\t31\t7\nVmSize:\t 100 kB\nThreads:\t3\n"
        "SigPnd:\t0000000000000200\nSigCgt:\t0000000100000002\nVmLck:\t      12 kB\n"
        "Seccomp:\t2\nx86_Thread_features:\tshstk wrss\n");
    ASSERT_TRUE(info);
    EXPECT_STREQ(info->name, "py thon: x");
    EXPECT_EQ(info->state, 'S');
    EXPECT_EQ(info->pid, 812);
    EXPECT_EQ(info->own_pid, 7);
    EXPECT_EQ(info->tracer_pid, 77);
    EXPECT_EQ(info->real_uid, 1000U);
    EXPECT_EQ(info->effective_uid, 1001U);
    EXPECT_EQ(info->threads, 3U);
    EXPECT_EQ(info->caught_signals, 0x100000002U);
    EXPECT_EQ(info->locked_kilobytes, 12U);
    EXPECT_EQ(info->seccomp, 2U);
    EXPECT_TRUE(info->has_memory);
    EXPECT_TRUE(info->has_shadow_stack);
}

TEST(ParseProcessStatus, RefusesTextWithoutAState) {
    EXPECT_FALSE(parse_process_status(""));
    EXPECT_FALSE(parse_process_status("Name:\tx\n::\nState"));
    EXPECT_FALSE(parse_process_status("State:\n"));
}

TEST(ParseBlockedCall, ReadsACall) {
    const auto call = parse_blocked_call("202 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffc00 0x7f0012\n");
    ASSERT_TRUE(call);
    EXPECT_EQ(call->number, 202);
    EXPECT_EQ(call->arguments[5], 6U);
    EXPECT_EQ(call->stack_pointer, 0x7ffc00U);
    EXPECT_EQ(call->instruction_pointer, 0x7f0012U);
    EXPECT_TRUE(parse_blocked_call("-1 0x10 0x20"));
}

TEST(ParseBlockedCall, TellsARunningThreadFromNonsense) {
    EXPECT_EQ(parse_blocked_call("running\n").error().kind, ErrorKind::kNotReady);
    for (const char* text : {"", "1", "1 0x1 0x2", "x 0x1 0x2", "-1 10 20", "-1 0x1"}) {
        EXPECT_EQ(parse_blocked_call(text).error().kind, ErrorKind::kInvalid) << text;
    }
}

TEST(ReadProcessInfo, KnowsThisProcess) {
    const auto info = read_process_info(kOwnProcess);
    ASSERT_TRUE(info);
    EXPECT_EQ(info->pid, getpid());
    EXPECT_EQ(info->group_pid, getpid());
    EXPECT_EQ(info->state, 'R');
    EXPECT_EQ(info->effective_uid, geteuid());
    EXPECT_TRUE(info->has_memory);
    EXPECT_EQ(read_program_class(kOwnProcess), ProgramClass::kNative);
    EXPECT_NE(read_namespace(kOwnProcess, "user"), 0U);
    EXPECT_EQ(read_namespace(kOwnProcess, "nothing"), 0U);
}

TEST(ReadProcessInfo, NoSuchProcess) {
    const auto info = read_process_info(0x3fffffff);
    ASSERT_FALSE(info);
    EXPECT_EQ(info.error().system_errno, ENOENT);
    EXPECT_EQ(read_program_class(0x3fffffff), ProgramClass::kUnknown);
}

TEST(ForEachThread, ListsThisThread) {
    std::set<pid_t> threads;
    ASSERT_TRUE(for_each_thread(kOwnProcess, [&](pid_t tid) {
        threads.insert(tid);
        return true;
    }));
    EXPECT_TRUE(threads.contains(static_cast<pid_t>(syscall(SYS_gettid))));
}

}  // namespace
}  // namespace echion
