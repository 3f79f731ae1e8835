#include "agent/descriptors.h"

#include <fcntl.h>

namespace echion::agent {
namespace {

// As the rendezvous socket's number: above what programs use, and within a descriptor table of
// 1024 entries, which every fork copies up to its highest number.
constexpr int kHighNumbers[] = {900, 200, 50};  // RLIMIT_NOFILE may be low
constexpr int kLowestNumber = 3;

}  // namespace

UniqueFd move_up(UniqueFd fd, bool has_own_table) {
    if (!has_own_table) {
        for (const int lowest : kHighNumbers) {
            if (fd.get() >= lowest) {
                return fd;
            }
            if (const int moved = fcntl(fd.get(), F_DUPFD_CLOEXEC, lowest); moved >= 0) {
                return UniqueFd(moved);
            }
        }
    }
    if (fd.get() >= 0 && fd.get() < kLowestNumber) {
        if (const int moved = fcntl(fd.get(), F_DUPFD_CLOEXEC, kLowestNumber); moved >= 0) {
            return UniqueFd(moved);
        }
    }
    return fd;
}

}  // namespace echion::agent
