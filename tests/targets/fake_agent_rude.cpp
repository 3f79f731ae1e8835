// Agents that break the protocol: by silence, garbage, too much, or what they may not ask for.

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fake_agent.h"

namespace echion::fake_agent {
namespace {

control::Arm make_arm(pid_t sampler_tid, int signal) {
    auto arm = make_message<control::Arm>(control::MessageType::kArm);
    arm.sampler_tid = static_cast<std::uint32_t>(sampler_tid);
    arm.signal = signal;
    return arm;
}

/// Asks for ticks and waits to be hung up on; an answer is told.
void arm(int channel, const control::Arm& request) {
    send_message(channel, request);
    control::Armed answer{};
    if (recv(channel, &answer, sizeof(answer), 0) > 0) {
        std::printf("answered %u\n", answer.armed);
        wait_hang_up(channel);
    }
}

/// So that ticks, if any come, do no harm.
void block_ticks() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, control::kTickSignal);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, nullptr);
}

/// Sends bytes where a first message is expected, and waits to be hung up on.
void send_in_place_of_hello(const void* bytes, std::size_t size, const std::vector<int>& fds = {}) {
    const UniqueFd channel = connect_channel();
    send_packet(channel.get(), bytes, size, fds);
    wait_hang_up(channel.get());
}

}  // namespace

Behaviours rude_behaviours() {
    return {
        {"silent",
         [](const char*) {
             const UniqueFd channel = connect_channel();
             announce("ready");
             wait_hang_up(channel.get());
         }},
        {"deaf",
         [](const char*) {
             Agent agent;
             agent.sample();
             announce("ready");
             wait_stop(agent.channel.get());
             wait_hang_up(agent.channel.get());
             announce("hung-up");
         }},
        {"knock-without-fd",
         [](const char*) {
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
             send_message(find_rendezvous(), message);
         }},
        {"knock-with-a-file",
         [](const char*) {
             const UniqueFd file(open("/dev/null", O_RDWR | O_CLOEXEC));
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
             send_message(find_rendezvous(), message, {file.get()});
         }},
        {"knock-with-many",
         [](const char*) {
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
             send_message(find_rendezvous(), message, std::vector<int>(16, STDERR_FILENO));
         }},
        {"knock-with-garbage",
         [](const char*) {
             const std::vector<char> garbage(2000, 'x');
             send_packet(find_rendezvous(), garbage.data(), garbage.size());
             send_packet(find_rendezvous(), garbage.data(), 3);
         }},
        {"long-hello",
         [](const char*) {
             const std::vector<char> bytes(4096, 'x');
             send_in_place_of_hello(bytes.data(), bytes.size());
         }},
        {"short-hello",
         [](const char*) {
             const auto hello = make_hello();
             send_in_place_of_hello(&hello, sizeof(hello) - 4);
         }},
        {"foreign-hello",
         [](const char*) {
             auto hello = make_hello();
             hello.header.magic ^= 1;
             send_in_place_of_hello(&hello, sizeof(hello));
         }},
        {"other-version",
         [](const char*) {
             auto hello = make_hello();
             std::memset(hello.agent_version, '\x1b', sizeof(hello.agent_version));
             send_in_place_of_hello(&hello, sizeof(hello));
         }},
        {"started-first",
         [](const char*) {
             const auto started = make_message<control::Started>(control::MessageType::kStarted);
             send_in_place_of_hello(&started, sizeof(started));
         }},
        {"hello-twice",
         [](const char*) {
             Agent agent;
             agent.sample();
             send_message(agent.channel.get(), make_hello());
             wait_hang_up(agent.channel.get());
         }},
        {"arm-once",
         [](const char*) {
             block_ticks();
             Agent agent;
             agent.sample();
             send_message(agent.channel.get(), make_arm(getpid(), control::kTickSignal));
             wait_hang_up(agent.channel.get());
         }},
        {"arm-twice",
         [](const char*) {
             block_ticks();
             Agent agent;
             const auto request = make_arm(getpid(), control::kTickSignal);
             send_message(agent.channel.get(), request);
             arm(agent.channel.get(), request);
         }},
        {"arm-signal",
         [](const char* number) {
             block_ticks();
             Agent agent;
             arm(agent.channel.get(), make_arm(getpid(), std::atoi(number)));
         }},
        {"arm-thread",
         [](const char* tid) {
             block_ticks();
             Agent agent;
             arm(agent.channel.get(), make_arm(std::atoi(tid), control::kTickSignal));
         }},
        {"arm-by-child",
         [](const char*) {
             block_ticks();
             Agent agent;
             const pid_t pid = getpid();
             if (fork() == 0) {
                 send_message(agent.channel.get(), make_arm(pid, control::kTickSignal));
                 _exit(0);
             }
             wait_hang_up(agent.channel.get());
         }},
        {"arm-flood",
         [](const char* count) {
             // Echion finds them all at once.
             Agent agent;
             const auto request = make_arm(getpid(), 0);
             for (int i = std::atoi(count); i > 0 && send_message(agent.channel.get(), request);
                  --i) {
             }
             wait_hang_up(agent.channel.get());
         }},
        {"arm-early",
         [](const char*) {
             // Before echion has answered the Hello: who sent this is not sure.
             block_ticks();
             kill(getppid(), SIGSTOP);
             const UniqueFd channel = connect_channel();
             send_message(channel.get(), make_hello());
             send_message(channel.get(), make_arm(getpid(), control::kTickSignal));
             kill(getppid(), SIGCONT);
             wait_hang_up(channel.get());
         }},
        {"knock-of-the-dead",
         [](const char*) {
             // By a child that is gone when echion looks. Its number may be anybody's then.
             kill(getppid(), SIGSTOP);
             int channel[2];
             if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) != 0) {
                 die("socketpair");
             }
             const pid_t child = fork();
             if (child == 0) {
                 const auto message =
                     make_message<control::Connect>(control::MessageType::kConnect);
                 send_message(find_rendezvous(), message, {channel[1]});
                 send_message(channel[0], make_hello());
                 _exit(0);
             }
             waitpid(child, nullptr, 0);
             close(channel[1]);
             kill(getppid(), SIGCONT);
             std::printf("%s\n", receive_configure(channel[0]) ? "let in" : "turned away");
         }},
        {"knock-often",
         [](const char* count) {
             // One after the other, each of them at fault.
             for (int i = std::atoi(count); i > 0; --i) {
                 send_in_place_of_hello("garbage", 7);
             }
         }},
        {"garbage-in-ring",
         [](const char*) {
             Agent agent;
             agent.sample();
             const auto room = agent.ring.free_space();
             std::memset(room.data(), 0x5a, 4096);
             agent.ring.publish(4096);
             wait_hang_up(agent.channel.get());
         }},
        {"garbage-in-batch",
         [](const char*) {
             Agent agent;
             agent.sample();
             const auto room = agent.ring.free_space();
             const std::uint32_t size = 100;
             std::memcpy(room.data(), &size, sizeof(size));
             std::memset(room.data() + sizeof(size), 0x5a, size);
             agent.ring.publish(size + sizeof(size));
             wait_hang_up(agent.channel.get());
         }},
        {"head-out-of-bounds",
         [](const char*) {
             Agent agent;
             agent.sample();
             agent.ring.publish(std::size_t{1} << 40U);
             wait_hang_up(agent.channel.get());
         }},
        {"shrink-ring",
         [](const char*) {
             Agent agent;
             agent.sample();
             std::printf("%s\n", ftruncate(agent.ring_fd.get(), 0) == 0 ? "shrunk" : "refused");
         }},
        {"flood",
         [](const char*) {
             // Writes as fast as it can and ignores every Stop, until it is killed or hung up on.
             Agent agent;
             agent.say_started();
             announce("ready");
             for (;;) {
                 agent.encoder.begin_tick(1);
                 agent.encoder.stack(0, 0, 0, {});
                 (void)agent.encoder.commit();
                 pollfd channel{agent.channel.get(), POLLIN, 0};
                 if (poll(&channel, 1, 0) > 0 && (channel.revents & POLLHUP) != 0) {
                     return;
                 }
             }
         }},
    };
}

}  // namespace echion::fake_agent
