// The agent's library in a program that is not Python, and difficult in other ways.
#include <dirent.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <set>
#include <string>
#include <thread>

#include "base/attach_part.h"
#include "base/unique_fd.h"
#include "control/control.h"
#include "fd_pairs.h"

namespace echion {
namespace {

/// Of the threads that the test has counted, the one that cannot be made, and not before it is told
/// so; 0: none.
std::atomic<int> threads_until_failure{0};
std::atomic<bool> may_fail{false};

}  // namespace
}  // namespace echion

/// In place of the C library's, for the agent too.
extern "C" __attribute__((visibility("default"))) int pthread_create(
    pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
    void* argument) noexcept {
    static const auto real =
        reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    if (echion::threads_until_failure > 0 && --echion::threads_until_failure == 0) {
        echion::may_fail.wait(false);
        return EAGAIN;
    }
    return real(thread, attributes, start, argument);
}

namespace echion {
namespace {

// More than the stack of a thread that does not reckon with it.
thread_local char big[std::size_t{2} << 20];

std::set<std::string> list(const char* folder) {
    std::set<std::string> names;
    DIR* directory = opendir(folder);
    EXPECT_NE(directory, nullptr);
    while (const dirent* entry = readdir(directory)) {
        names.insert(entry->d_name);
    }
    closedir(directory);
    return names;
}

class AgentLibrary : public testing::Test {
  protected:
    void SetUp() override {
        std::memset(big, 1, sizeof(big));
        void* library = dlopen(ECHION_AGENT_LIBRARY, RTLD_NOW | RTLD_LOCAL);
        ASSERT_NE(library, nullptr) << dlerror();
        attach_ = reinterpret_cast<int (*)(int, int)>(dlsym(library, "echion_attach"));
        ASSERT_NE(attach_, nullptr);
    }
    /// Gives the agent its channel; `other_` is the end of the command-line program.
    int attach(AttachPart part = kWholeAgent) {
        test::SocketPair pair(SOCK_SEQPACKET);
        other_ = std::move(pair.first);
        const timeval patience{60, 0};
        setsockopt(other_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        return attach_(pair.second.release(), part);
    }
    void expect_hello() const {
        control::Hello hello{};
        ASSERT_EQ(recv(other_.get(), &hello, sizeof(hello), 0), ssize_t{sizeof(hello)});
        EXPECT_EQ(hello.header.type, control::MessageType::kHello);
        EXPECT_EQ(hello.pid, static_cast<std::uint32_t>(getpid()));
    }
    /// Hangs up, and waits until the agent's thread has gone.
    void hang_up() {
        other_.reset();
        while (list("/proc/self/task").size() != threads_.size()) {
            usleep(1000);
        }
    }

    int (*attach_)(int, int) = nullptr;
    UniqueFd other_;
    const std::set<std::string> threads_ = list("/proc/self/task");
};

TEST_F(AgentLibrary, GreetsInAProgramWithMuchThreadLocalData) {
    ASSERT_EQ(attach(), 0);
    expect_hello();
    hang_up();
}

TEST_F(AgentLibrary, LeavesNeitherThreadNorDescriptorWhenTheOtherSideHangsUp) {
    const auto before = list("/proc/self/fd");
    for (int i = 0; i < 3; ++i) {
        ASSERT_EQ(attach(), 0);
        expect_hello();
        hang_up();
        EXPECT_EQ(list("/proc/self/fd"), before);
    }
}

TEST_F(AgentLibrary, RefusesASecondChannelAndClosesIt) {
    ASSERT_EQ(attach(), 0);
    expect_hello();
    UniqueFd first = std::move(other_);
    EXPECT_EQ(attach(), EBUSY);
    char byte = 0;
    EXPECT_EQ(recv(other_.get(), &byte, 1, 0), 0) << "hung up";
    other_ = std::move(first);
    hang_up();
}

TEST_F(AgentLibrary, AForkedChildHasNoChannelAndCanBeSampledItself) {
    ASSERT_EQ(attach(), 0);
    expect_hello();
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        // Its copy of the parent's channel is closed, and an agent of its own may begin.
        other_.reset();
        const int result = attach();
        control::Hello hello{};
        const bool greeted = recv(other_.get(), &hello, sizeof(hello), 0) == sizeof(hello) &&
                             hello.pid == static_cast<std::uint32_t>(getpid());
        _exit(result == 0 && greeted ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    hang_up();
}

TEST_F(AgentLibrary, TheParentsHangUpIsSeenAlthoughAChildLivesOn) {
    ASSERT_EQ(attach(), 0);
    expect_hello();
    int live[2];
    ASSERT_EQ(pipe(live), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        close(live[1]);
        other_.reset();
        char byte = 0;
        (void)!read(live[0], &byte, 1);  // until the test is done
        _exit(0);
    }
    // The agent answers nonsense by going; its end is closed only if no child has it open.
    const char nonsense = 0;
    ASSERT_EQ(send(other_.get(), &nonsense, 1, 0), 1);
    control::Failed failed{};
    EXPECT_EQ(recv(other_.get(), &failed, sizeof(failed), 0), ssize_t{sizeof(failed)});
    EXPECT_EQ(failed.header.type, control::MessageType::kFailed);
    EXPECT_EQ(recv(other_.get(), &failed, sizeof(failed), 0), 0);
    close(live[0]);
    close(live[1]);
    int status = 0;
    waitpid(child, &status, 0);
    hang_up();
}

/// Runs `body` in a thread that has a copy of the descriptor table; what it closes or opens there
/// is not seen elsewhere.
template <typename Body>
void run_apart(const Body& body) {
    std::thread([&] {
        ASSERT_EQ(unshare(CLONE_FILES), 0);
        body();
    }).join();
}

TEST_F(AgentLibrary, SamplesFromATableThatIsNotThePrograms) {
    test::SocketPair pair(SOCK_SEQPACKET);
    other_ = std::move(pair.first);
    UniqueFd given = std::move(pair.second);
    ASSERT_EQ(attach_(-1, kAgentBeside), 0);
    EXPECT_EQ(attach_(-1, kAgentBeside), EBUSY);
    run_apart([&] {
        close(other_.get());  // its copy, which would never hang up
        EXPECT_EQ(attach_(given.get(), kAgentApart), 0);
    });
    given.reset();
    expect_hello();
    EXPECT_EQ(attach_(-1, kAgentBeside), EBUSY);
    hang_up();
    EXPECT_EQ(attach(), 0) << "another time";
    expect_hello();
    hang_up();
}

/// From now on the calling thread cannot make another one.
void forbid_threads() {
    const auto number = static_cast<std::uint32_t>(offsetof(seccomp_data, nr));
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, number),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{std::size(code), code};
    ASSERT_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

TEST_F(AgentLibrary, NeitherPartStaysWhereTheSamplerCannotBeMade) {
    for (int i = 0; i < 3; ++i) {
        ASSERT_EQ(attach_(-1, kAgentBeside), 0);
        std::thread([&] {
            forbid_threads();
            EXPECT_EQ(attach(kAgentApart), EAGAIN);
        }).join();
        char byte = 0;
        EXPECT_EQ(recv(other_.get(), &byte, 1, 0), 0) << "hung up";
        hang_up();
        EXPECT_EQ(attach(kAgentApart), EINVAL) << "without the other part";
    }
}

/// The program waits a second at most for its agent: behind that, who fails has to say so itself.
TEST_F(AgentLibrary, SamplerThatCannotBeMadeInTimeIsToldOfAndLeavesNothing) {
    const auto before = list("/proc/self/fd");
    may_fail = false;
    threads_until_failure = 2;  // behind the IoThread
    ASSERT_EQ(attach(), 0);
    EXPECT_EQ(attach_(-1, kAgentBeside), EBUSY);
    may_fail = true;
    may_fail.notify_all();
    control::Failed failed{};
    ASSERT_EQ(recv(other_.get(), &failed, sizeof(failed), 0), ssize_t{sizeof(failed)});
    EXPECT_EQ(failed.header.type, control::MessageType::kFailed);
    EXPECT_EQ(failed.system_errno, EAGAIN);
    char byte = 0;
    EXPECT_EQ(recv(other_.get(), &byte, 1, 0), 0) << "hung up";
    hang_up();
    EXPECT_EQ(list("/proc/self/fd"), before);
    ASSERT_EQ(attach(), 0) << "another time";
    expect_hello();
    hang_up();
}

TEST_F(AgentLibrary, SamplerThatCannotBeMadeAtOnceIsTheCallersToTell) {
    const auto before = list("/proc/self/fd");
    may_fail = true;
    threads_until_failure = 2;
    ASSERT_EQ(attach(), EAGAIN);
    char byte = 0;
    EXPECT_EQ(recv(other_.get(), &byte, 1, 0), 0) << "hung up";
    hang_up();
    EXPECT_EQ(list("/proc/self/fd"), before);
    ASSERT_EQ(attach(), 0) << "another time";
    expect_hello();
    hang_up();
}

}  // namespace
}  // namespace echion
