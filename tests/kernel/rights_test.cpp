// Who may do what with a session's map, who may have a session, and what is left behind.
#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <cstring>
#include <set>

#include "kernel_test.h"

namespace echion::test {
namespace {

/// A message of one byte with room for one descriptor.
struct FdMessage {
    char byte = 'f';
    iovec data{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};

    FdMessage() {
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
    }
    FdMessage(const FdMessage&) = delete;
    FdMessage& operator=(const FdMessage&) = delete;
};

bool send_fd(int socket, int fd) {
    FdMessage sent;
    cmsghdr* header = CMSG_FIRSTHDR(&sent.message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    return ::sendmsg(socket, &sent.message, 0) == 1;
}

int receive_fd(int socket) {
    FdMessage received;
    int fd = -1;
    if (::recvmsg(socket, &received.message, 0) == 1 &&
        CMSG_FIRSTHDR(&received.message) != nullptr) {
        std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&received.message)), sizeof(fd));
    }
    return fd;
}

/// What a process of another user tried with the map, by errno; 0: it worked.
struct Attempts {
    int map_writable;
    int make_writable;
    int map_private_readable;
    int update;
    int freeze_again;
    int read;
};

Attempts try_to_write(int fd) {
    Attempts result{};
    const std::size_t page = 4096;
    void* memory = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    result.map_writable = memory == MAP_FAILED ? errno : 0;
    memory = ::mmap(nullptr, page, PROT_READ, MAP_SHARED, fd, 0);
    result.make_writable = ::mprotect(memory, page, PROT_READ | PROT_WRITE) != 0 ? errno : 0;
    memory = ::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    result.map_private_readable = memory == MAP_FAILED ? errno : 0;
    std::uint32_t key = 0;
    unsigned char value[ECHION_ENTRY_BYTES] = {};
    bpf_attr attributes{};
    attributes.map_fd = static_cast<std::uint32_t>(fd);
    attributes.key = reinterpret_cast<std::uintptr_t>(&key);
    attributes.value = reinterpret_cast<std::uintptr_t>(value);
    result.update =
        ::syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attributes, sizeof(attributes)) != 0 ? errno : 0;
    bpf_attr freeze{};
    freeze.map_fd = static_cast<std::uint32_t>(fd);
    result.freeze_again =
        ::syscall(SYS_bpf, BPF_MAP_FREEZE, &freeze, sizeof(freeze)) != 0 ? errno : 0;
    result.read = engine::CpuStateMap::open(fd).has_value() ? 0 : EIO;
    return result;
}

class ReceivedMap : public SessionTest, public ::testing::WithParamInterface<uid_t> {};

TEST_P(ReceivedMap, CanBeReadButNotWritten) {
    open();
    int sockets[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    const uid_t uid = GetParam();
    const Child receiver([&](const Child::Channel& channel) {
        if (uid != 0 && (::setgid(uid) != 0 || ::setuid(uid) != 0)) {
            ::_exit(9);
        }
        channel.send(try_to_write(receive_fd(sockets[0])));
    });
    ASSERT_TRUE(send_fd(sockets[1], session_->state_fd()));
    const auto attempts = receiver.receive<Attempts>();
    EXPECT_NE(attempts.map_writable, 0);
    EXPECT_NE(attempts.make_writable, 0);
    EXPECT_NE(attempts.map_private_readable, 0);
    EXPECT_NE(attempts.update, 0);
    EXPECT_NE(attempts.freeze_again, 0);
    EXPECT_EQ(attempts.read, 0);
    ::close(sockets[0]);
    ::close(sockets[1]);
}

// Another user, and root itself: the map is frozen, not just guarded by rights.
INSTANTIATE_TEST_SUITE_P(ByUser, ReceivedMap, ::testing::Values(65534U, 0U));

/// The programs that the kernel holds, by their ids, which are not used twice.
std::set<std::uint32_t> list_programs() {
    std::set<std::uint32_t> ids;
    bpf_attr next{};
    while (::syscall(SYS_bpf, BPF_PROG_GET_NEXT_ID, &next, sizeof(next)) == 0) {
        ids.insert(next.next_id);
        next.start_id = next.next_id;
    }
    return ids;
}

TEST_F(SessionTest, NothingIsLeftWhenItsProcessIsKilled) {
    const std::set<std::uint32_t> before = list_programs();
    std::set<std::uint32_t> added;
    {
        const Child holder([](const Child::Channel& channel) {
            const auto session = engine::BpfSession::open({});
            channel.send(session.has_value());
            channel.rest();
        });
        ASSERT_TRUE(holder.receive<bool>());
        for (const std::uint32_t id : list_programs()) {
            if (before.count(id) == 0) {
                added.insert(id);
            }
        }
        EXPECT_GE(added.size(), 6U);
    }  // SIGKILL
    // The kernel frees programs a grace period after their last reference.
    std::size_t left = added.size();
    for (int i = 0; i < 2000 && left != 0; ++i) {
        const std::set<std::uint32_t> now = list_programs();
        left = 0;
        for (const std::uint32_t id : added) {
            left += now.count(id);
        }
        ::usleep(5000);
    }
    EXPECT_EQ(left, 0U);
}

TEST_F(SessionTest, SaysWhyAnOrdinaryUserCannotHaveOne) {
    Child user([](const Child::Channel& channel) {
        if (::setuid(65534) != 0) {
            ::_exit(9);
        }
        const auto session = engine::BpfSession::open({});
        if (session) {
            ::_exit(8);
        }
        const std::string text = session.error().text();
        char line[512] = {};
        std::snprintf(line, sizeof(line), "%s", text.c_str());
        channel.send(line);
    });
    struct Line {
        char text[512];
    };
    const auto line = user.receive<Line>();
    EXPECT_NE(std::strstr(line.text, "CAP_BPF and CAP_PERFMON"), nullptr) << line.text;
    EXPECT_NE(std::strstr(line.text, "setcap"), nullptr) << line.text;
}

}  // namespace
}  // namespace echion::test
