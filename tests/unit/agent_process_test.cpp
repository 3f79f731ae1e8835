#include "cli/agent_process.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>

#include "fd_pairs.h"
#include "platform/process_rights.h"

namespace echion::cli {
namespace {

constexpr uid_t kNobody = 65534;

ProcessInfo make_user(uid_t uid) {
    ProcessInfo info;
    info.real_uid = info.effective_uid = info.saved_uid = uid;
    info.real_gid = info.effective_gid = info.saved_gid = uid;
    return info;
}

TEST(GainedRights, AreAnotherUsersOrGroupsIdentity) {
    const ProcessInfo before = make_user(1000);
    EXPECT_FALSE(has_gained_rights(before, before));
    for (uid_t ProcessInfo::*field :
         {&ProcessInfo::real_uid, &ProcessInfo::effective_uid, &ProcessInfo::saved_uid,
          &ProcessInfo::real_gid, &ProcessInfo::effective_gid, &ProcessInfo::saved_gid}) {
        for (const uid_t id : {0U, 1001U}) {
            ProcessInfo now = before;
            now.*field = id;
            EXPECT_TRUE(has_gained_rights(before, now)) << id;
        }
    }
}

TEST(GainedRights, AreCapabilities) {
    ProcessInfo before = make_user(1000);
    before.permitted_capabilities = 1U << CAP_NET_RAW;
    ProcessInfo now = before;
    now.permitted_capabilities = 0;
    EXPECT_FALSE(has_gained_rights(before, now));
    now.permitted_capabilities = before.permitted_capabilities | 1U << CAP_SYS_PTRACE;
    EXPECT_TRUE(has_gained_rights(before, now));
}

TEST(GainedRights, AreNotThoseThatAProcessMayTakeAtWill) {
    ProcessInfo server = make_user(0);
    server.permitted_capabilities = 1U << CAP_SETUID | 1U << CAP_SETGID;
    EXPECT_FALSE(has_gained_rights(server, make_user(33)));
    ProcessInfo program = make_user(1000);  // between the user's identity and its own
    program.saved_uid = 0;
    ProcessInfo now = program;
    now.effective_uid = 0;
    EXPECT_FALSE(has_gained_rights(program, now));
}

/// A child that runs `body` and is gone with this.
class Child {
  public:
    explicit Child(const std::function<void()>& body) : pid_(fork()) {
        if (pid_ == 0) {
            body();
            _exit(1);
        }
    }
    ~Child() {
        kill(pid_, SIGKILL);
        reap();
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    void reap() const { waitpid(pid_, nullptr, 0); }
    [[nodiscard]] pid_t pid() const { return pid_; }

  private:
    pid_t pid_;
};

TEST(PinnedProcess, IsItselfUntilItEnds) {
    const Child child([] { pause(); });
    const auto process = AgentProcess::pin(child.pid());
    ASSERT_TRUE(process);
    ASSERT_TRUE(process->is_pinned());
    EXPECT_TRUE(process->check());
    kill(child.pid(), SIGKILL);
    pollfd end{process->descriptor(), POLLIN, 0};
    ASSERT_EQ(poll(&end, 1, 60'000), 1);
    EXPECT_TRUE(process->has_ended());  // although its number is still taken
    EXPECT_EQ(process->check().error().system_errno, ESRCH);
    EXPECT_EQ(AgentProcess::pin(child.pid()).error().system_errno, ESRCH);
    child.reap();
    EXPECT_EQ(process->check().error().system_errno, ESRCH);
}

TEST(PinnedProcess, IsAnotherProgramOnceItHasExecutedOne) {
    const test::Pipe go;
    test::Pipe ready;
    const Child child([&] {
        char byte = 0;
        if (read(go.reading.get(), &byte, 1) == 1) {
            execl("/bin/sleep", "sleep", "600", nullptr);
        }
    });
    ready.writing.reset();
    const auto process = AgentProcess::pin(child.pid());
    ASSERT_TRUE(process);
    EXPECT_FALSE(process->has_executed());
    ASSERT_EQ(write(go.writing.get(), "g", 1), 1);
    process->wait_for_change(60'000);
    EXPECT_TRUE(process->has_executed());
    EXPECT_TRUE(process->check()) << "no more rights";
    const auto again = AgentProcess::pin(child.pid());
    ASSERT_TRUE(again);
    EXPECT_FALSE(again->has_executed());
    kill(child.pid(), SIGKILL);
    again->wait_for_change(60'000);
    EXPECT_TRUE(again->has_ended());
    EXPECT_FALSE(process->has_executed()) << "it has ended";
}

TEST(PinnedProcess, MustHaveANumberHere) {
    for (const pid_t pid : {0, -1, 0x7fffffff}) {
        EXPECT_FALSE(AgentProcess::pin(pid)) << pid;
    }
}

TEST(PinnedProcess, IsAnotherOnceItHasExecutedASetUidProgram) {
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root, to make a set-uid program";
    }
    std::string folder = testing::TempDir() + "echion-test-XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    for (auto above = std::filesystem::path(folder).parent_path();; above = above.parent_path()) {
        const auto rights = std::filesystem::status(above).permissions();
        if ((rights & std::filesystem::perms::others_exec) == std::filesystem::perms::none) {
            rmdir(folder.c_str());
            GTEST_SKIP() << above << " is closed to other users: set TMPDIR to one that is not";
        }
        if (above == above.root_path()) {
            break;
        }
    }
    const std::string program = folder + "/sleep";
    ASSERT_EQ(chmod(folder.c_str(), 0755), 0);
    std::filesystem::copy_file("/bin/sleep", program);
    ASSERT_EQ(chmod(program.c_str(), 04755), 0);
    const test::Pipe go;
    test::Pipe ready;
    const Child child([&] {
        char byte = 0;
        if (setgid(kNobody) != 0 || setuid(kNobody) != 0 ||
            write(ready.writing.get(), "r", 1) != 1 || read(go.reading.get(), &byte, 1) != 1) {
            _exit(2);
        }
        execl(program.c_str(), "sleep", "600", nullptr);
    });
    ready.writing.reset();
    char byte = 0;
    ASSERT_EQ(read(ready.reading.get(), &byte, 1), 1);
    const auto process = AgentProcess::pin(child.pid());
    ASSERT_TRUE(process);
    EXPECT_TRUE(process->check());
    ASSERT_EQ(write(go.writing.get(), "g", 1), 1);
    EXPECT_EQ(read(ready.reading.get(), &byte, 1), 0);  // closed by the execution
    const auto info = read_process_info(child.pid());
    if (info && info->effective_uid == kNobody) {
        std::filesystem::remove_all(folder);
        GTEST_SKIP() << "set-uid programs have no effect in /tmp here";
    }
    EXPECT_EQ(process->check().error().kind, ErrorKind::kRefused);
    std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace echion::cli
