// What comes over the control channel, at both its ends: an agent that sends the program what it
// likes, in any order, and fills its ring; and a program that sends an agent what it likes.
//
//      input:  u8 which end, then steps: u8 what, u8 number, u8 size, `size` bytes
//
//      the program's end, a session:
//          0 a message of type `number`, of that type's size, the bytes its body
//          1 a packet of these bytes    2 the same with `number` descriptors
//          3 the session looks at the channel   4 and at its ring
//          5 the agent takes what was sent to it, and maps the ring
//          6 a batch of these bytes into the ring   7 the ring's header, word `number`, is written
//          8 the session is told to stop   9 the agent hangs up   10 end() will be told
//      the agent's end: the same 0, 1 and 2, then the agent receives

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <optional>

#include "agent/channel.h"
#include "cli/channel.h"
#include "cli/profile.h"
#include "cli/session.h"
#include "control/control.h"
#include "fuzz_support.h"
#include "output/output_file.h"
#include "stream/ring.h"

namespace {

using namespace echion;
using fuzz::require;

constexpr std::size_t kMostSteps = 48;
constexpr std::size_t kMostFds = 12;
constexpr std::size_t kMostBytes = 256;  // of a message: more than any has

int null_fd() {
    static const UniqueFd fd(open("/dev/null", O_RDWR | O_CLOEXEC));
    return fd.get();
}

/// The lowest free descriptor: the same before and after an input, or one has leaked.
int lowest_free_fd() { return UniqueFd(fcntl(null_fd(), F_DUPFD_CLOEXEC, 0)).get(); }

std::size_t size_of(control::MessageType type) {
    switch (type) {
        case control::MessageType::kHello:
            return sizeof(control::Hello);
        case control::MessageType::kConfigure:
            return sizeof(control::Configure);
        case control::MessageType::kStarted:
            return sizeof(control::Started);
        case control::MessageType::kFailed:
            return sizeof(control::Failed);
        case control::MessageType::kArm:
            return sizeof(control::Arm);
        case control::MessageType::kArmed:
            return sizeof(control::Armed);
        default:
            return sizeof(control::Header);
    }
}

/// The other side: it sends what the input says.
class Peer {
  public:
    explicit Peer(UniqueFd fd) : fd_(std::move(fd)) {}

    void send_message(std::uint8_t number, std::span<const std::uint8_t> body) {
        const auto type = static_cast<control::MessageType>(number % 12);
        const std::size_t size = size_of(type);
        std::array<std::uint8_t, kMostBytes> packet{};
        const control::Header header{control::kMagic, control::kVersion, type,
                                     static_cast<std::uint32_t>(size)};
        if (type == control::MessageType::kHello && body.empty()) {
            control::Hello hello{};
            std::memcpy(hello.agent_version, ECHION_VERSION, sizeof(ECHION_VERSION));
            hello.pointer_bytes = sizeof(void*);
            std::memcpy(packet.data(), &hello, sizeof(hello));
        }
        std::memcpy(packet.data(), &header, sizeof(header));
        const std::size_t room = size - sizeof(header);
        std::copy_n(body.begin(), std::min(body.size(), room), packet.data() + sizeof(header));
        send({packet.data(), size}, 0);
    }

    void send(std::span<const std::uint8_t> packet, std::size_t fd_count) {
        alignas(cmsghdr) std::byte ancillary[CMSG_SPACE(sizeof(int) * kMostFds)] = {};
        iovec part{const_cast<std::uint8_t*>(packet.data()), packet.size()};
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        fd_count = std::min(fd_count, kMostFds);
        if (fd_count != 0) {
            header.msg_control = ancillary;
            header.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
            cmsghdr* rights = CMSG_FIRSTHDR(&header);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
            for (std::size_t i = 0; i < fd_count; ++i) {
                const int fd = null_fd();
                std::memcpy(CMSG_DATA(rights) + i * sizeof(int), &fd, sizeof(fd));
            }
        }
        (void)sendmsg(fd_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    }

    /// Takes a packet; keeps the ring that comes with it.
    void take() {
        if (!fd_) {
            return;
        }
        cli::Channel channel{ForeignFd(std::move(fd_))};
        auto packet = channel.receive();
        fd_.reset(fcntl(channel.fd(), F_DUPFD_CLOEXEC, 0));
        if (packet && *packet && !(*packet)->fds.empty() && !ring_) {
            if (auto mapping = stream::RingMapping::open((*packet)->fds.front().get())) {
                ring_.emplace(std::move(*mapping));
            }
        }
    }

    void write_batch(std::span<const std::uint8_t> bytes) {
        if (!ring_ || bytes.empty()) {
            return;
        }
        const auto size = static_cast<std::uint32_t>(bytes.size());
        std::uint64_t& head = ring_->header()->head;
        std::byte* at = ring_->data() + (head & (ring_->data_bytes() - 1));
        std::memcpy(at, &size, sizeof(size));
        std::memcpy(at + sizeof(size), bytes.data(), bytes.size());
        __atomic_store_n(&head, head + sizeof(size) + size, __ATOMIC_RELEASE);
    }

    void write_header(std::uint8_t word, std::span<const std::uint8_t> bytes) {
        if (ring_ && !bytes.empty()) {
            std::uint64_t value = 0;
            std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
            reinterpret_cast<std::uint64_t*>(
                ring_->header())[word % (sizeof(stream::RingHeader) / sizeof(value))] = value;
        }
    }

    void hang_up() { fd_.reset(); }
    void end_sending() { (void)shutdown(fd_.get(), SHUT_WR); }

  private:
    UniqueFd fd_;
    std::optional<stream::RingMapping> ring_;
};

struct Step {
    std::uint8_t what;
    std::uint8_t number;
    std::span<const std::uint8_t> bytes;
};

Step take_step(fuzz::Input& input) {
    const auto what = input.take<std::uint8_t>();
    const auto number = input.take<std::uint8_t>();
    return {what, number, input.take_bytes(input.take<std::uint8_t>())};
}

/// What both ends can be sent; false for another step.
bool send_step(Peer& peer, const Step& step, unsigned what) {
    if (what == 0) {
        peer.send_message(step.number, step.bytes);
    } else if (what == 1 || what == 2) {
        // Up to more than the program takes.
        std::vector<std::uint8_t> packet(step.bytes.begin(), step.bytes.end());
        packet.resize(packet.size() * (1 + step.number % 3U));
        peer.send(packet, what == 2 ? step.number : 0);
    } else {
        return false;
    }
    return true;
}

void drive_session(fuzz::Input& input, cli::Channel channel, Peer& peer) {
    auto file = output::OutputFile::open("/dev/null");
    require(file.has_value());
    cli::ProfileSettings profile_settings;
    cli::Profile profile(std::move(*file), profile_settings);
    cli::SessionSettings settings;
    settings.ring_bytes = stream::kMinRingBytes;
    settings.mode = input.rest().size() % 2 == 0 ? control::Mode::kWall : control::Mode::kCpu;
    bool was_armed = false;
    const auto arm = [&](const control::Arm&) -> tl::expected<control::Armed, std::string> {
        require(!was_armed);  // once at most
        was_armed = true;
        control::Armed answer{};
        answer.armed = 1;
        return answer;
    };
    cli::Session session(
        profile, settings, std::move(channel), getpid(),
        [] { return std::vector<engine::ExtraFd>{}; }, arm,
        [](bool) {
            return std::vector<model::CountedCpu>{{1, 1000}};
        });
    for (std::size_t steps = 0; !input.is_empty() && steps < kMostSteps; ++steps) {
        const Step step = take_step(input);
        const unsigned what = step.what % 11U;
        if (send_step(peer, step, what)) {
            continue;
        }
        switch (what) {
            case 3:
                session.on_readable();
                break;
            case 4:
                require(session.has_ended() || session.drain(step.number * 64U, INT64_MAX) <= 100 ||
                        session.has_ended());
                break;
            case 5:
                peer.take();
                break;
            case 6:
                peer.write_batch(step.bytes);
                break;
            case 7:
                peer.write_header(step.number, step.bytes);
                break;
            case 8:
                session.request_stop();
                break;
            case 9:
                peer.hang_up();
                break;
            default:
                session.expect_end();
                break;
        }
        require(session.complaint().find_first_of("\n\x1b") == std::string::npos);
    }
    session.on_readable();
    session.end();
    require(session.has_ended());
    session.release_channel();
    require(session.fd() < 0);
    (void)profile.finish(true, {});
}

void drive_agent(fuzz::Input& input, UniqueFd socket, Peer& peer) {
    for (std::size_t steps = 0; !input.is_empty() && steps < kMostSteps; ++steps) {
        const Step step = take_step(input);
        (void)send_step(peer, step, step.what % 3U);
    }
    peer.end_sending();  // so that nothing waits for ever
    agent::Channel channel(std::move(socket), false);
    if (const auto configure = channel.receive_configure()) {
        require(configure->fd_count <= control::kMaxFds);
        for (const auto kind : {control::FdKind::kRing, control::FdKind::kBpfState}) {
            (void)channel.find_fd(*configure, kind);
        }
    }
    const std::array<std::byte, 64> layout{};
    (void)channel.arm(1, {}, control::kTickSignal, layout.data(), layout.size());
    (void)channel.wait_for_stop(0);
    (void)channel.has_hung_up();
    channel.close_received();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const int lowest = lowest_free_fd();
    int pair[2];
    require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    UniqueFd ours(pair[0]);
    Peer peer{UniqueFd(pair[1])};
    fuzz::Input input(data, size);
    if (input.take<std::uint8_t>() % 2 == 0) {
        auto channel = cli::Channel::adopt(ForeignFd(std::move(ours)));
        require(channel.has_value());
        drive_session(input, std::move(*channel), peer);
    } else {
        drive_agent(input, std::move(ours), peer);
    }
    peer.hang_up();
    // Some are closed on threads of their own.
    while (lowest_free_fd() != lowest) {
        sched_yield();  // for ever if one is left open, which is found as a time-out
    }
    return 0;
}
