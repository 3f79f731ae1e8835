#include "isolation/kept_rights.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "platform/process_info.h"

namespace echion {
namespace {

constexpr std::uint64_t kPtrace = std::uint64_t{1} << CAP_SYS_PTRACE;

/// Runs `body` in a child, whose rights it may spoil; its status.
template <typename Body>
int run_in_child(Body&& body) {
    const pid_t child = fork();
    if (child == 0) {
        _exit(body());
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

std::uint64_t permitted(pid_t tid) {
    const auto info = read_thread_info(0, tid);
    return info ? info->permitted_capabilities : ~std::uint64_t{0};
}

class KeptRights : public testing::Test {
  protected:
    void SetUp() override {
#if defined(__SANITIZE_THREAD__)
        GTEST_SKIP() << "ThreadSanitizer has a thread of its own, and handles signals itself";
#endif
    }
};

bool has_all_rights() { return geteuid() == 0 && (permitted(gettid()) & kPtrace) != 0; }

TEST_F(KeptRights, AreTheSameInEveryThreadAlsoOneThatTakesNoSignals) {
    if (!has_all_rights()) {
        GTEST_SKIP() << "needs root, with CAP_SYS_PTRACE";
    }
    EXPECT_EQ(run_in_child([] {
                  std::atomic<pid_t> tid = 0;
                  std::atomic<int> no_new_privileges = 0;
                  std::atomic<bool> is_over = false;
                  std::thread other([&] {
                      sigset_t all;
                      sigfillset(&all);
                      pthread_sigmask(SIG_SETMASK, &all, nullptr);
                      tid = gettid();
                      is_over.wait(false);
                      no_new_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
                  });
                  while (tid == 0) {
                      std::this_thread::yield();
                  }
                  NeededRights needed;
                  needed.other_processes = true;
                  const auto kept = keep_rights(needed);
                  const bool is_right = kept && *kept == "CAP_SYS_PTRACE" &&
                                        permitted(gettid()) == kPtrace && permitted(tid) == kPtrace;
                  is_over = true;
                  is_over.notify_all();
                  other.join();
                  return is_right && no_new_privileges == 1 ? 0 : 1;
              }),
              0);
}

// More threads than CPUs: some are slow to obey, and none must be asked twice.
TEST_F(KeptRights, AreGivenUpByManyThreads) {
    if (!has_all_rights()) {
        GTEST_SKIP() << "needs root, with CAP_SYS_PTRACE";
    }
    EXPECT_EQ(run_in_child([] {
                  constexpr int kThreads = 64;
                  std::atomic<bool> is_over = false;
                  std::vector<std::thread> threads;
                  for (int i = 0; i < kThreads; ++i) {
                      threads.emplace_back([&] {
                          while (!is_over) {
                          }
                      });
                  }
                  const auto kept = keep_rights({});
                  is_over = true;
                  for (std::thread& thread : threads) {
                      thread.join();
                  }
                  return kept || kept.error().kind == ErrorKind::kInvalid ? 0 : 1;
              }),
              0);
}

TEST_F(KeptRights, LeaveTheHandlingOfSignalsAsItWas) {
    EXPECT_EQ(run_in_child([] {
                  struct sigaction before {};
                  before.sa_handler = SIG_IGN;
                  sigaction(SIGRTMAX, &before, nullptr);
                  if (!keep_rights({})) {
                      return 1;
                  }
                  struct sigaction after {};
                  sigaction(SIGRTMAX, nullptr, &after);
                  return after.sa_handler == SIG_IGN ? 0 : 2;
              }),
              0);
}

TEST_F(KeptRights, NothingIsGainedByAskingForMore) {
    EXPECT_EQ(run_in_child([] {
                  constexpr engine::Capability kEngine[] = {engine::Capability::kBpf,
                                                            engine::Capability::kPerfmon};
                  NeededRights all{kEngine, true, true, {}};
                  return keep_rights({}) && keep_rights(all) && permitted(gettid()) == 0 ? 0 : 1;
              }),
              0);
}

}  // namespace
}  // namespace echion
