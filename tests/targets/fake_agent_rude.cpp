// Agents that break the protocol: by silence, garbage, too much, or what they may not ask for.

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "base/function_ref.h"
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

bool is_hung_up(int channel) {
    pollfd entry{channel, POLLIN, 0};
    return poll(&entry, 1, 0) > 0 && (entry.revents & POLLHUP) != 0;
}

/// A name as long as the stream allows.
std::string make_long_name(std::uint32_t number) {
    std::string name = std::to_string(number) + "-";
    name.resize(kMaxTextBytes, 'n');
    return name;
}

/// Waits for room in the ring, so that nothing of what follows is lost.
void commit_in_time(Agent& agent, FunctionRef<void(Encoder&)> records) {
    while (agent.ring.percent_full() > 40) {
        usleep(200);
        (void)agent.ring.free_space();
        if (is_hung_up(agent.channel.get())) {
            std::exit(0);
        }
    }
    agent.encoder.begin_tick(1000);
    records(agent.encoder);
    if (!agent.encoder.commit()) {
        die("commit");
    }
}

/// Returns when echion, whose child this is, has stopped.
void stop_echion() {
    const std::string path = "/proc/" + std::to_string(getppid()) + "/stat";
    kill(getppid(), SIGSTOP);
    for (char state = 0; state != 'T';) {
        char text[64] = {};
        const UniqueFd stat(open(path.c_str(), O_RDONLY | O_CLOEXEC));
        if (read(stat.get(), text, sizeof(text) - 1) <= 0) {
            die("look at echion");
        }
        const char* name_end = std::strrchr(text, ')');
        state = name_end != nullptr ? name_end[2] : 'T';
    }
}

/// A connection that, closed for the last time, waits for minutes until the other end takes what
/// was sent. A child holds that end, until echion has ended.
UniqueFd make_lingering() {
    const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* plain = reinterpret_cast<sockaddr*>(&address);
    UniqueFd sender(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (bind(listener.get(), plain, size) != 0 || listen(listener.get(), 1) != 0 ||
        getsockname(listener.get(), plain, &size) != 0 ||
        (connect(sender.get(), plain, size) != 0 && errno != EINPROGRESS)) {
        die("connect");
    }
    const UniqueFd receiver(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const std::vector<char> bytes(1 << 20);
    while (send(sender.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0) {
    }
    const linger minutes{1, 600};
    if (errno != EAGAIN ||
        setsockopt(sender.get(), SOL_SOCKET, SO_LINGER, &minutes, sizeof(minutes)) != 0) {
        die("linger");
    }
    int has_let_go[2];
    if (pipe2(has_let_go, O_CLOEXEC) != 0) {
        die("pipe2");
    }
    if (fork() == 0) {
        sender.reset();  // never the last
        close(has_let_go[0]);
        close(has_let_go[1]);
        for (int fd = 0; fd < 3; ++fd) {
            close(fd);  // or the test would wait for it
        }
        pollfd echion{find_rendezvous(), 0, 0};
        while (poll(&echion, 1, -1) < 0 || (echion.revents & POLLHUP) == 0) {
        }
        _exit(0);
    }
    close(has_let_go[1]);
    char byte = 0;
    (void)!read(has_let_go[0], &byte, 1);
    close(has_let_go[0]);
    return sender;
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
        {"connect-without-fd",
         [](const char*) {
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
             send_message(find_rendezvous(), message);
         }},
        {"connect-with-a-file",
         [](const char*) {
             const UniqueFd file(open("/dev/null", O_RDWR | O_CLOEXEC));
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
             send_message(find_rendezvous(), message, {file.get()});
         }},
        {"connect-with-many",
         [](const char*) {
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
             send_message(find_rendezvous(), message, std::vector<int>(16, STDERR_FILENO));
         }},
        {"connect-with-a-lingerer",
         [](const char*) {
             // Echion's descriptor is the last one when it runs again.
             stop_echion();
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
             send_message(find_rendezvous(), message, {make_lingering().get()});
             kill(getppid(), SIGCONT);
         }},
        {"lingerer-in-queue",
         [](const char*) {
             // In a message that is never read, as its channel breaks a rule in front of it.
             stop_echion();
             const UniqueFd channel = connect_channel();
             send_message(channel.get(), make_hello());
             send_packet(channel.get(), "garbage", 7);
             send_packet(channel.get(), "garbage", 7, {make_lingering().get()});
             kill(getppid(), SIGCONT);
             wait_hang_up(channel.get());
         }},
        {"connect-with-garbage",
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
        {"arm-and-end",
         [](const char*) {
             // Asks for a thread that is not there, as one is that has ended just now.
             block_ticks();
             Agent agent;
             constexpr pid_t kNoThread = 0x7fffffff;
             send_message(agent.channel.get(), make_arm(kNoThread, control::kTickSignal));
             for (int unread = 1; unread != 0;) {
                 if (ioctl(agent.channel.get(), SIOCOUTQ, &unread) != 0) {
                     die("SIOCOUTQ");
                 }
             }
             _exit(0);
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
             block_ticks();
             Agent agent;
             const auto request = make_arm(getpid(), control::kTickSignal);
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
        {"connect-of-the-dead",
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
        {"connect-often",
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
        {"expand",
         [](const char* count) {
             // A deep stack of long names, then records of some bytes that each make a line of all
             // that; so many of them, or without end, whatever it is told.
             Agent agent;
             const std::vector<FrameRef> frames(agent.settings.max_frames, FrameRef{2, 0});
             commit_in_time(agent, [&](Encoder& to) {
                 to.code(2, CodeKind::kLnotab, 1, make_long_name(2), "", make_long_name(2), {});
                 to.stack(0, 0, 0, frames);
             });
             agent.say_started();
             announce("ready");
             const long wanted = std::atol(count);
             for (long i = 0; wanted == 0 || i < wanted; ++i) {
                 const auto kept = static_cast<std::uint32_t>(frames.size());
                 commit_in_time(agent, [&](Encoder& to) {
                     to.stack(0, i % 2 == 0 ? kStackInGc : 0, kept, {});
                 });
                 agent.ring.count(Counter::kSamples);
             }
         }},
        {"hoard",
         [](const char*) {
             // New names without end, none of them ever given up.
             Agent agent;
             agent.sample();
             announce("ready");
             for (std::uint32_t id = 2; id < kMaxCodes;) {
                 commit_in_time(agent, [&](Encoder& to) {
                     for (const std::uint32_t end = id + 16; id < end; ++id) {
                         const std::string name = make_long_name(id);
                         to.code(id, CodeKind::kLnotab, 1, name, name, name, {});
                     }
                 });
             }
             wait_hang_up(agent.channel.get());
         }},
        {"too-deep",
         [](const char*) {
             // One frame more than was asked for.
             Agent agent;
             agent.sample();
             const std::vector<FrameRef> frames(agent.settings.max_frames + 1, FrameRef{0, 0});
             agent.tick(1 * kMs, frames);
             wait_hang_up(agent.channel.get());
         }},
        {"search",
         [](const char*) {
             // Stacks whose every line is to be searched for in a large table.
             Agent agent;
             agent.say_started();
             std::vector<std::byte> table(kMaxLineTableBytes);
             for (std::size_t i = 0; i < table.size(); i += 2) {
                 table[i] = std::byte{1};  // of code; the line stays
             }
             commit_in_time(agent, [&](Encoder& to) {
                 to.code(2, CodeKind::kLnotab, 1, "f", "", "f.py", table);
             });
             announce("ready");
             std::int32_t offset = 400'000;
             for (;;) {
                 std::vector<FrameRef> frames;
                 while (frames.size() < agent.settings.max_frames) {
                     frames.push_back({2, ++offset});
                 }
                 commit_in_time(agent, [&](Encoder& to) { to.stack(0, 0, 0, frames); });
             }
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
