// What a target may name as the files that its helper thread has made.

#include "inject/handed_over.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "fd_pairs.h"

namespace echion::inject {
namespace {

using Pair = echion::test::SocketPair;

TEST(HandedOver, ControlSocketIsAPairOfTheTarget) {
    const Pair packets(SOCK_SEQPACKET);
    EXPECT_TRUE(is_control_socket_of(packets.first.get(), getpid()));
    EXPECT_FALSE(is_control_socket_of(packets.first.get(), getppid())) << "another process's";
}

TEST(HandedOver, OtherFilesAreNoControlSockets) {
    const Pair stream(SOCK_STREAM);
    const Pair datagrams(SOCK_DGRAM);
    const UniqueFd unconnected(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    const UniqueFd null(open("/dev/null", O_RDWR));
    for (const int fd :
         {stream.first.get(), datagrams.first.get(), unconnected.get(), null.get(), -1}) {
        EXPECT_FALSE(is_control_socket_of(fd, getpid())) << fd;
    }
}

TEST(HandedOver, MemoryFileIsEmpty) {
    const UniqueFd file(memfd_create("any", MFD_CLOEXEC));
    EXPECT_TRUE(is_empty_memory_file(file.get()).value());
    ASSERT_EQ(write(file.get(), "x", 1), 1);
    EXPECT_FALSE(is_empty_memory_file(file.get()).value());
}

TEST(HandedOver, OtherFilesAreNoMemoryFiles) {
    // Without a name, and on a tmpfs, so that F_GET_SEALS has an answer.
    const UniqueFd on_tmpfs(open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    const UniqueFd null(open("/dev/null", O_RDWR));
    const Pair packets(SOCK_SEQPACKET);
    for (const int fd : {on_tmpfs.get(), null.get(), packets.first.get(), -1}) {
        EXPECT_FALSE(is_empty_memory_file(fd).value()) << fd;
    }
}

}  // namespace
}  // namespace echion::inject
