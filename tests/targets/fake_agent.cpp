// Plays the agent's part towards the command-line program, honestly or not, so that the program can
// be tested without a Python. It is run as the launched command itself.
//
//     fake_agent BEHAVIOUR [argument]

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "stream/control.h"
#include "stream/encoder.h"
#include "stream/ring.h"

namespace {

using namespace echion;
using namespace echion::stream;

constexpr std::uint64_t kMs = 1'000'000;

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "fake_agent: %s: %s\n", what, strerror(errno));
    std::exit(99);
}

template <typename T>
T make_message(control::MessageType type) {
    T message{};
    message.header = {control::kMagic, control::kVersion, type, sizeof(T)};
    return message;
}

bool send_packet(int socket, const void* bytes, std::size_t size,
                 const std::vector<int>& fds = {}) {
    alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
    iovec part{const_cast<void*>(bytes), size};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (!fds.empty()) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }
    return sendmsg(socket, &header, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
}

template <typename T>
bool send_message(int socket, const T& message, const std::vector<int>& fds = {}) {
    return send_packet(socket, &message, sizeof(message), fds);
}

int find_rendezvous() {
    const char* variable = getenv(control::kRendezvousVariable);
    if (variable == nullptr) {
        die("no rendezvous");
    }
    return std::atoi(variable);
}

/// This agent's end of its own control channel, after knocking.
UniqueFd connect_channel() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
        die("socketpair");
    }
    const auto message = make_message<control::Connect>(control::MessageType::kConnect);
    if (!send_message(find_rendezvous(), message, {fds[1]})) {
        die("knock");
    }
    close(fds[1]);
    return UniqueFd(fds[0]);
}

control::Hello make_hello() {
    auto hello = make_message<control::Hello>(control::MessageType::kHello);
    std::strncpy(hello.agent_version, ECHION_VERSION, sizeof(hello.agent_version) - 1);
    hello.pid = 1;  // not to be believed
    hello.pointer_bytes = sizeof(void*);
    return hello;
}

struct Configured {
    control::Configure message;
    UniqueFd ring;
};

/// Waits for the settings; nothing when the program hung up instead.
std::optional<Configured> receive_configure(int channel) {
    alignas(cmsghdr) char control[CMSG_SPACE(control::kMaxFds * sizeof(int))];
    Configured result{};
    iovec part{&result.message, sizeof(result.message)};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    if (recvmsg(channel, &header, MSG_CMSG_CLOEXEC) != sizeof(result.message)) {
        return std::nullopt;
    }
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof(fd));
    result.ring.reset(fd);
    return result;
}

void wait_hang_up(int channel) {
    char bytes[512];
    while (recv(channel, bytes, sizeof(bytes), 0) > 0) {
    }
}

void wait_stop(int channel) {
    control::Stop stop{};
    if (recv(channel, &stop, sizeof(stop), 0) != sizeof(stop) ||
        stop.header.type != control::MessageType::kStop) {
        std::exit(0);
    }
}

/// Everything up to the first tick.
struct Agent {
    Agent() : channel(connect_channel()) {
        send_message(channel.get(), make_hello());
        auto configured = receive_configure(channel.get());
        if (!configured) {
            std::exit(0);
        }
        settings = configured->message;
        auto mapping = RingMapping::open(configured->ring.get());
        if (!mapping) {
            die(mapping.error().what);
        }
        ring_fd = std::move(configured->ring);
        ring = RingProducer(std::move(*mapping));
        encoder.begin_start(1, 3, 12, 7);
        encoder.code(0, CodeKind::kLnotab, 10, "main", "", "/srv/app.py", {});
        encoder.code(1, CodeKind::kLnotab, 20, "work", "App.work", "/srv/app.py", {});
        encoder.thread(0, 0, 100, "MainThread");
        if (!encoder.commit()) {
            die("commit");
        }
    }

    void say_started() {
        send_message(channel.get(), make_message<control::Started>(control::MessageType::kStarted));
    }
    void tick(std::uint64_t ns, const std::vector<FrameRef>& frames) {
        encoder.begin_tick(ns);
        encoder.stack(0, 0, 0, frames);
        ring.count(Counter::kTicks);
        ring.count(Counter::kSamples);
        if (!encoder.commit()) {
            die("commit");
        }
    }
    /// Two stacks: 5 ms in main, 10 ms in work.
    void sample() {
        tick(5 * kMs, {{0, 0}});
        say_started();
        tick(10 * kMs, {{0, 0}, {1, 0}});
        ring.set(Counter::kSamplerCpuNs, 7 * kMs);
    }
    void stop_when_told() {
        wait_stop(channel.get());
        send_message(channel.get(), make_message<control::Stopped>(control::MessageType::kStopped));
    }

    UniqueFd channel;
    UniqueFd ring_fd;
    control::Configure settings{};
    RingProducer ring;
    Encoder encoder{ring};
};

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

void announce(const char* word) {
    if (const char* path = getenv("ECHION_TEST_FIFO")) {
        const UniqueFd fifo(open(path, O_WRONLY | O_CLOEXEC));
        dprintf(fifo.get(), "%s %d\n", word, getpid());
    }
}

using Behaviour = std::function<void(const char* argument)>;

/// Sends bytes where a first message is expected, and waits to be hung up on.
void send_in_place_of_hello(const void* bytes, std::size_t size, const std::vector<int>& fds = {}) {
    const UniqueFd channel = connect_channel();
    send_packet(channel.get(), bytes, size, fds);
    wait_hang_up(channel.get());
}

const std::map<std::string, Behaviour> kBehaviours = {
    // Honest ones.
    {"exit",
     [](const char* status) {
         Agent agent;
         agent.sample();
         std::exit(std::atoi(status));
     }},
    {"die",
     [](const char* number) {
         Agent agent;
         agent.sample();
         raise(std::atoi(number));
     }},
    {"until-stopped",
     [](const char*) {
         Agent agent;
         agent.sample();
         announce("ready");
         agent.stop_when_told();
         announce("stopped");
     }},
    {"until-signal",
     [](const char* number) {
         // Samples, then waits for the signal and ends with status 40.
         sigset_t set;
         sigemptyset(&set);
         sigaddset(&set, std::atoi(number));
         sigprocmask(SIG_BLOCK, &set, nullptr);
         Agent agent;
         agent.sample();
         announce("ready");
         int got = 0;
         sigwait(&set, &got);
         std::exit(40);
     }},
    {"settings",
     [](const char*) {
         Agent agent;
         agent.sample();
         std::printf("%llu %u %u %u\n", static_cast<unsigned long long>(agent.settings.interval_ns),
                     static_cast<unsigned>(agent.settings.mode), agent.settings.flags,
                     agent.settings.max_frames);
     }},
    {"fail",
     [](const char* why) {
         const UniqueFd channel = connect_channel();
         send_message(channel.get(), make_hello());
         receive_configure(channel.get());
         auto failed = make_message<control::Failed>(control::MessageType::kFailed);
         std::strncpy(failed.what, why, sizeof(failed.what) - 1);
         send_message(channel.get(), failed);
     }},
    {"forked",
     [](const char*) {
         // A child that the agent knows nothing of keeps the channel open behind its parent.
         Agent agent;
         agent.sample();
         announce("ready");
         if (fork() == 0) {
             for (int fd = 0; fd < 3; ++fd) {
                 close(fd);  // or the test would wait for it
             }
             pause();
         }
     }},
    {"names",
     [](const char*) {
         Agent agent;
         agent.encoder.begin_tick(1 * kMs);
         agent.encoder.thread(1, 3, 101, "a;b:c d\ne\r 12");
         agent.encoder.thread(2, 0, 102, "Worker 3");
         agent.encoder.code(2, CodeKind::kLnotab, 1, "f;g:h\ni 5", "", "/a;b c:d\n/\U0001F434 7.py",
                            {});
         agent.encoder.code(3, CodeKind::kLnotab, 2, "\U0001F434", "", "", {});
         agent.encoder.label(4, "Task: 1; x 9");
         agent.encoder.code(5, CodeKind::kLnotab, 3, "bad\xff", "", "\x01\x7f.py", {});
         const FrameRef frames[] = {{2, 0}, {3, 0}, {4, 0}, {5, 0}};
         agent.encoder.stack(1, 0, 0, frames);
         agent.encoder.stack(0, kStackInGc | kStackInvalid | kStackTruncated, 0, {frames, 2});
         if (!agent.encoder.commit()) {
             die("commit");
         }
         agent.say_started();
         agent.tick(2 * kMs, {});
     }},
    {"rate",
     [](const char* count) {
         // As many samples as it can, each another stack of 20 frames; waits when the ring is full.
         Agent agent;
         agent.say_started();
         agent.encoder.begin_tick(1000);
         for (std::uint32_t id = 2; id < 200; ++id) {
             const std::string name = "function_of_a_usual_length_" + std::to_string(id);
             agent.encoder.code(id, CodeKind::kLnotab, id, name, "SomeClass." + name,
                                "/usr/lib/python3/dist-packages/package/module.py", {});
         }
         if (!agent.encoder.commit()) {
             die("commit");
         }
         std::vector<FrameRef> frames;
         for (std::uint32_t i = 0; i < 20; ++i) {
             frames.push_back({i, 0});
         }
         const long wanted = std::atol(count);
         for (long i = 0; i < wanted;) {
             const auto kept = static_cast<std::uint32_t>(14 + i % 5);
             for (std::uint32_t at = kept; at < 20; ++at) {
                 frames[at].code_id = static_cast<std::uint32_t>(2 + (i * 7 + at) % 198);
             }
             if (agent.ring.percent_full() > 50) {
                 usleep(200);
                 (void)agent.ring.free_space();
                 continue;
             }
             agent.encoder.begin_tick(5000);
             agent.encoder.stack(0, 0, i == 0 ? 0 : kept,
                                 i == 0 ? std::span<const FrameRef>(frames)
                                        : std::span<const FrameRef>(frames).subspan(kept));
             if (!agent.encoder.commit()) {
                 die("commit");
             }
             agent.ring.count(Counter::kSamples);
             ++i;
         }
     }},

    // Rude ones.
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
         for (int i = std::atoi(count); i > 0 && send_message(agent.channel.get(), request); --i) {
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
             const auto message = make_message<control::Connect>(control::MessageType::kConnect);
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

}  // namespace

int main(int argc, char** argv) {
    const auto found = kBehaviours.find(argc > 1 ? argv[1] : "");
    if (found == kBehaviours.end()) {
        for (const auto& [name, behaviour] : kBehaviours) {
            std::printf("%s\n", name.c_str());
        }
        return 98;
    }
    found->second(argc > 2 ? argv[2] : "0");
    return 0;
}
