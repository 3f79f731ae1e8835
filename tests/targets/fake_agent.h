#pragma once

// What the fake agent's behaviours are made of: the messages of the control channel, and an agent
// that has got as far as its first tick.

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "control/control.h"
#include "stream/encoder.h"
#include "stream/ring.h"

namespace echion::fake_agent {

using namespace stream;

/// What the command line names; the argument is "0" when there is none.
using Behaviour = std::function<void(const char* argument)>;
using Behaviours = std::map<std::string, Behaviour>;

/// Those of an agent that keeps to the protocol.
Behaviours honest_behaviours();
/// Those of one that does not.
Behaviours rude_behaviours();

inline constexpr std::uint64_t kMs = 1'000'000;

[[noreturn]] inline void die(const char* what) {
    std::fprintf(stderr, "fake_agent: %s: %s\n", what, strerror(errno));
    std::exit(99);
}

template <typename T>
T make_message(control::MessageType type) {
    T message{};
    message.header = {control::kMagic, control::kVersion, type, sizeof(T)};
    return message;
}

inline bool send_packet(int socket, const void* bytes, std::size_t size,
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

inline int find_rendezvous() {
    const char* variable = getenv(control::kRendezvousVariable);
    if (variable == nullptr) {
        die("no rendezvous");
    }
    return std::atoi(variable);
}

/// This agent's end of its own control channel, after connecting.
inline UniqueFd connect_channel() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
        die("socketpair");
    }
    const auto message = make_message<control::Connect>(control::MessageType::kConnect);
    if (!send_message(find_rendezvous(), message, {fds[1]})) {
        die("connect");
    }
    close(fds[1]);
    return UniqueFd(fds[0]);
}

inline control::Hello make_hello() {
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
inline std::optional<Configured> receive_configure(int channel) {
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

inline void wait_hang_up(int channel) {
    char bytes[512];
    while (recv(channel, bytes, sizeof(bytes), 0) > 0) {
    }
}

inline void wait_stop(int channel) {
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

inline void announce(const char* word) {
    if (const char* path = getenv("ECHION_TEST_FIFO")) {
        const UniqueFd fifo(open(path, O_WRONLY | O_CLOEXEC));
        dprintf(fifo.get(), "%s %d\n", word, getpid());
    }
}

}  // namespace echion::fake_agent
