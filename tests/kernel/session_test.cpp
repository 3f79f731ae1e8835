// Slots, targets, and namespaces.
#include <thread>

#include "kernel_test.h"

namespace echion::test {
namespace {

class Session : public SessionTest {
  protected:
    [[nodiscard]] int living() const {
        int count = 0;
        for (std::uint32_t slot = 0; slot < states_->used(); ++slot) {
            const auto state = states_->read(slot);
            count += state && !state->ended ? 1 : 0;
        }
        return count;
    }
};

// The child: starts and ends so many threads one after the other for each number it receives.
void thread_factory(const Child::Channel& channel) {
    while (const int count = channel.receive<int>()) {
        for (int i = 0; i < count; ++i) {
            std::thread([] {}).join();
        }
        channel.send(count);
    }
}

TEST_F(Session, GivesSlotsBackWhenThreadsEnd) {
    open({.thread_capacity = 8, .quarantine_ns = 0});
    const Child child(thread_factory);
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send(500);
    child.receive<int>();
    EXPECT_EQ(session_->threads_refused(), 0U);
    std::uint32_t generations = 0;
    for (std::uint32_t slot = 0; slot < states_->used(); ++slot) {
        generations += states_->read(slot)->generation;
    }
    EXPECT_EQ(generations, 501U);
}

TEST_F(Session, KeepsTheFiguresOfEndedThreadsForAWhile) {
    open({.thread_capacity = 64});
    const Child child(thread_factory);
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send(60);
    child.receive<int>();
    EXPECT_EQ(states_->used(), 61U);  // each of the 60 had a slot of its own
    EXPECT_EQ(session_->threads_refused(), 0U);
}

TEST_F(Session, CountsTheThreadsThatAFullTableRefuses) {
    open({.thread_capacity = 4});
    const Child child([](const Child::Channel& channel) {
        channel.receive<char>();
        std::vector<std::thread> threads;
        for (int i = 0; i < 10; ++i) {
            threads.emplace_back([] { ::pause(); });
        }
        channel.send('d');
        channel.rest();
    });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('g');
    child.receive<char>();
    EXPECT_EQ(session_->threads_refused(), 7U);
    EXPECT_EQ(living(), 4);
    EXPECT_TRUE(find(static_cast<std::uint32_t>(child.pid())));  // not overwritten
    for (std::uint32_t slot = 0; slot < 4; ++slot) {
        EXPECT_EQ(states_->read(slot)->generation, 1U);
    }
}

TEST_F(Session, EntersAllThreadsThatAreThereAlready) {
    open();
    const Child child([](const Child::Channel& channel) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 300; ++i) {
            threads.emplace_back([] { ::pause(); });
        }
        channel.send('d');
        channel.rest();
    });
    child.receive<char>();
    ASSERT_TRUE(session_->add_target(child.pid()));
    EXPECT_EQ(living(), 301);
}

TEST_F(Session, SaysWhenAProcessDoesNotExist) {
    open();
    Child child([](const Child::Channel&) {});
    const pid_t pid = child.pid();
    child.wait();
    const auto target = session_->add_target(pid);
    ASSERT_FALSE(target);
    EXPECT_EQ(target.error().system_errno, ESRCH);
}

TEST_F(Session, WorksOnKernelsWithoutTaskStorageToo) {
    open({.thread_capacity = 64, .quarantine_ns = 0, .without_task_storage = true});
    const Child child(thread_factory);
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send(500);
    child.receive<int>();
    EXPECT_EQ(session_->threads_refused(), 0U);
    const auto state = find(static_cast<std::uint32_t>(child.pid()));
    ASSERT_TRUE(state);
    EXPECT_GE(state->run_count, 100U);
}

// The child: forks once for each byte it receives, and says who that was.
void fork_on_demand(const Child::Channel& channel) {
    for (;;) {
        channel.receive<char>();
        const pid_t pid = ::fork();
        if (pid == 0) {
            ::pause();
        }
        channel.send(pid);
    }
}

TEST_F(Session, LeavesForkedChildrenAloneUnlessAsked) {
    open();
    const Child child(fork_on_demand);
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('f');
    const auto pid = child.receive<pid_t>();
    EXPECT_FALSE(session_->find_target(pid));
    EXPECT_EQ(living(), 1);
    ::kill(pid, SIGKILL);
}

TEST_F(Session, FollowsForkedChildrenIfAsked) {
    open({.follow_children = true});
    const Child child(fork_on_demand);
    const auto parent = session_->add_target(child.pid());
    ASSERT_TRUE(parent);
    child.send('f');
    const auto pid = child.receive<pid_t>();
    const auto target = session_->find_target(pid);
    ASSERT_TRUE(target);
    EXPECT_NE(*target, *parent);
    const auto state = find(static_cast<std::uint32_t>(pid));
    ASSERT_TRUE(state);
    EXPECT_EQ(state->target, *target);
    ::kill(pid, SIGKILL);
    // It ends: without an agent nothing keeps its number.
    EXPECT_TRUE(comes_true([&] { return !session_->find_target(pid); }));
}

TEST_F(Session, SurvivesManyForksWithoutRunningOutOfNumbers) {
    open({.follow_children = true});
    const Child child([](const Child::Channel& channel) {
        const int count = channel.receive<int>();
        for (int i = 0; i < count; ++i) {
            const pid_t pid = ::fork();
            if (pid == 0) {
                ::_exit(0);
            }
            ::waitpid(pid, nullptr, 0);
        }
        channel.send('d');
        channel.rest();
    });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send(int{ECHION_MAX_TARGETS + 200});
    child.receive<char>();
    EXPECT_EQ(session_->counters()[ECHION_COUNT_TARGETS_REFUSED], 0U);
}

class Execs : public Session, public ::testing::WithParamInterface<bool> {};

TEST_P(Execs, AreFollowedUnderTheThreadsNewNumber) {
    open({.thread_capacity = 64, .quarantine_ns = 0, .without_task_storage = GetParam()});
    // While its numbers change hands the former first thread may have a switch to go: many times.
    for (int round = 0; round < 60; ++round) {
        Child child([](const Child::Channel& channel) {
            channel.receive<char>();
            std::thread([&] {
                channel.send(current_tid());
                channel.receive<char>();
                ::dup2(channel.in, STDIN_FILENO);  // what it reads to the end
                ::execl("/bin/cat", "cat", nullptr);
            }).join();
        });
        const auto target = session_->add_target(child.pid());
        ASSERT_TRUE(target);
        child.send('t');
        const auto tid = static_cast<std::uint32_t>(child.receive<pid_t>());
        const auto second = find(tid);
        ASSERT_TRUE(second);
        child.send('x');
        // It has become the process's first thread, and the only one.
        const auto pid = static_cast<std::uint32_t>(child.pid());
        EXPECT_TRUE(comes_true([&] {
            const auto state = find(pid);
            return living() == 1 && state && !state->ended &&
                   state->started_ns == second->started_ns && states_->find_slot(pid, pid);
        })) << "round "
            << round;
        child.wait();
        EXPECT_TRUE(comes_true([&] { return living() == 0; })) << "round " << round;
        session_->remove_target(*target);
        if (HasFailure()) {
            break;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Members, Execs, ::testing::Values(false, true), [](const auto& without) {
    return std::string(without.param ? "InAMap" : "InTaskStorage");
});

TEST_F(Session, GivesTheNumbersOfANestedPidNamespace) {
    open();
    const Child child([](const Child::Channel& channel) {
        int started[2];
        if (::pipe(started) != 0 || ::unshare(CLONE_NEWPID) != 0) {
            ::_exit(9);
        }
        const pid_t inner = ::fork();
        if (inner == 0) {
            std::thread thread([] { ::pause(); });
            ::close(started[1]);
            ::close(started[0]);
            channel.rest();
        }
        ::close(started[1]);
        char byte = 0;
        if (::read(started[0], &byte, 1) != 0) {  // until its second thread has started
            ::_exit(10);
        }
        channel.send(inner);
        ::waitpid(inner, nullptr, 0);
    });
    const auto inner = child.receive<pid_t>();
    ASSERT_TRUE(session_->add_target(inner));
    const auto state = find(static_cast<std::uint32_t>(inner));
    ASSERT_TRUE(state);
    EXPECT_EQ(state->tid, 1U);
    EXPECT_EQ(state->pid, 1U);
    EXPECT_EQ(state->session_pid, static_cast<std::uint32_t>(inner));
    EXPECT_TRUE(states_->find_slot(1, 1));
    EXPECT_TRUE(states_->find_slot(1, 2));
    ::kill(inner, SIGKILL);
}

TEST_F(Session, WorksFromInsideAPidNamespace) {
    Child outer([](const Child::Channel&) {
        if (::unshare(CLONE_NEWPID) != 0) {
            ::_exit(9);
        }
        const pid_t pid = ::fork();
        if (pid != 0) {
            int status = 0;
            ::waitpid(pid, &status, 0);
            ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 10);
        }
        // Number 1 here. Its child is 2, before threads take that number.
        const Child target([](const Child::Channel& channel) { channel.rest(); });
        auto session = engine::BpfSession::open({});
        if (!session) {
            ::_exit(11);
        }
        const auto states = engine::CpuStateMap::open((*session)->state_fd());
        if (target.pid() != 2 || !(*session)->add_target(2) || !states) {
            ::_exit(12);
        }
        const auto slot = states->find_slot(2, 2);
        const auto state = slot ? states->read(*slot) : tl::unexpected(slot.error());
        ::_exit(state && state->session_tid == 2 ? 0 : 13);
    });
    EXPECT_EQ(outer.wait(), 0);
}

TEST_F(Session, TwoAtOnceDoNotSeeEachOthersTargets) {
    open();
    auto other = BpfSession::open({});
    ASSERT_TRUE(other);
    const auto other_states = engine::CpuStateMap::open((*other)->state_fd());
    ASSERT_TRUE(other_states);
    const Child one([](const Child::Channel& channel) { channel.rest(); });
    const Child two([](const Child::Channel& channel) { channel.rest(); });
    ASSERT_TRUE(session_->add_target(one.pid()));
    ASSERT_TRUE((*other)->add_target(two.pid()));
    const auto pid_one = static_cast<std::uint32_t>(one.pid());
    const auto pid_two = static_cast<std::uint32_t>(two.pid());
    EXPECT_TRUE(states_->find_slot(pid_one, pid_one));
    EXPECT_FALSE(states_->find_slot(pid_two, pid_two));
    EXPECT_TRUE(other_states->find_slot(pid_two, pid_two));
    other->reset();
    const Child three([](const Child::Channel& channel) { channel.rest(); });
    ASSERT_TRUE(session_->add_target(three.pid()));  // the first still works
}

TEST_F(Session, TheSameProcessCanBeInTwoSessions) {
    open();
    auto other = BpfSession::open({});
    ASSERT_TRUE(other);
    const Child child([](const Child::Channel& channel) { channel.rest(); });
    ASSERT_TRUE(session_->add_target(child.pid()));
    ASSERT_TRUE((*other)->add_target(child.pid()));
}

TEST_F(Session, AForgottenTargetIsNoTargetAnyMore) {
    open();
    const Child child([](const Child::Channel& channel) { channel.rest(); });
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    ASSERT_TRUE(session_->snapshot_fd(*target));
    session_->remove_target(*target);
    EXPECT_FALSE(session_->find_target(child.pid()));
    // And it can be one again, with the threads that have their slots still.
    const auto again = session_->add_target(child.pid());
    ASSERT_TRUE(again);
    EXPECT_NE(*again, *target);
    EXPECT_EQ(find(static_cast<std::uint32_t>(child.pid()))->target, *again);
}

TEST_F(Session, ATargetThatHasEndedKeepsItsNumberUntilItIsRemoved) {
    open();
    for (int i = 0; i < static_cast<int>(ECHION_MAX_TARGETS) + 10; ++i) {
        Child child([](const Child::Channel& channel) { channel.rest(); });
        const pid_t pid = child.pid();
        const auto target = session_->add_target(pid);
        ASSERT_TRUE(target) << i;
        child.wait();
        ASSERT_EQ(session_->find_target(pid), *target);
        session_->remove_target(*target);
        ASSERT_FALSE(session_->find_target(pid));
    }
}

}  // namespace
}  // namespace echion::test
