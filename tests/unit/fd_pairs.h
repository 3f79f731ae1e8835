#pragma once

// Pairs of descriptors that belong together, for tests. None is inherited by a program that is
// executed.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/unique_fd.h"

namespace echion::test {

/// What is read from one end has been written to the other.
struct Pipe {
    Pipe() {
        int ends[2];
        EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
        reading.reset(ends[0]);
        writing.reset(ends[1]);
    }
    UniqueFd reading;
    UniqueFd writing;
};

/// Both ends of a Unix socket of this type (SOCK_SEQPACKET, …), with flags of socketpair(2) in it.
struct SocketPair {
    explicit SocketPair(int type) {
        int ends[2];
        EXPECT_EQ(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends), 0);
        first.reset(ends[0]);
        second.reset(ends[1]);
    }
    UniqueFd first;
    UniqueFd second;
};

}  // namespace echion::test
