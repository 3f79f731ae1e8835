// What is read of /proc/PID/limits, and told of it.
#include "cli/memory_limits.h"

#include <gmock/gmock.h>

namespace echion::cli {
namespace {

constexpr char kHead[] =
    "Limit                     Soft Limit           Hard Limit           Units     \n";

TEST(MemoryLimits, OfNoneNothingIsTold) {
    EXPECT_EQ(describe_memory_limits("", 7), "");
    EXPECT_EQ(describe_memory_limits(
                  std::string(kHead) +
                      "Max data size             unlimited            1024                 bytes\n"
                      "Max stack size            8388608              unlimited            bytes\n"
                      "Max address space         unlimited            unlimited            bytes\n",
                  7),
              "");
}

TEST(MemoryLimits, EachIsNamedWithItsRemedy) {
    EXPECT_EQ(describe_memory_limits(
                  std::string(kHead) +
                      "Max data size             2048                 unlimited            bytes\n"
                      "Max address space         1073741824           1073741824           bytes\n",
                  7),
              "its address space is limited to 1 GiB (ulimit -v), its data is limited to 2 KiB "
              "(ulimit -d); remedy: prlimit --pid 7 --as=unlimited --data=unlimited");
}

TEST(MemoryLimits, WhatMayBeLockedCountsWhereMemoryIsLocked) {
    const std::string limits =
        std::string(kHead) +
        "Max locked memory         8388608              8388608              bytes\n";
    EXPECT_EQ(describe_memory_limits(limits, 7), "");
    EXPECT_EQ(describe_memory_limits(limits, 7, true),
              "its locked memory is limited to 8 MiB (ulimit -l); remedy: prlimit --pid 7 "
              "--memlock=unlimited");
}

TEST(MemoryLimits, OfWhatIsCutNothingIsMadeUp) {
    EXPECT_EQ(describe_memory_limits("Max data size", 7), "");
    EXPECT_EQ(describe_memory_limits("Max data size        ", 7), "");
    EXPECT_EQ(describe_memory_limits("Max address space 99999999999999999999999", 7), "");
}

}  // namespace
}  // namespace echion::cli
