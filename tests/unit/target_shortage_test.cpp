// Which of a process's limits explains an errno, and what is told of it.
#include "cli/target_shortage.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cerrno>

namespace echion::cli {
namespace {

using testing::HasSubstr;

std::string make_limits(const char* files, const char* hard_files, const char* threads) {
    const auto pad = [](std::string text, std::size_t width) {
        text.resize(std::max(width, text.size()), ' ');
        return text + " ";
    };
    return pad("Max processes", 25) + pad(threads, 20) + pad("unlimited", 20) + "processes\n" +
           pad("Max open files", 25) + pad(files, 20) + pad(hard_files, 20) + "files\n";
}

TEST(TargetShortage, NamesTheLimitOnFilesAndLowersNone) {
    EXPECT_EQ(describe_file_limit(make_limits("3", "3", "9"), 7),
              "; its open files are limited to 3 (ulimit -n); remedy: prlimit --pid 7 "
              "--nofile=1024");
    EXPECT_THAT(describe_file_limit(make_limits("3", "1048576", "9"), 7),
                HasSubstr("--nofile=1024:"));
    EXPECT_THAT(describe_file_limit(make_limits("1024", "unlimited", "9"), 7),
                HasSubstr("--nofile=2048:"));
    EXPECT_EQ(describe_file_limit(make_limits("unlimited", "unlimited", "9"), 7), "");
    EXPECT_EQ(describe_file_limit("", 7), "");
}

TEST(TargetShortage, NamesTheLimitOnThreadsWhereItIsReached) {
    EXPECT_EQ(describe_thread_limit(make_limits("3", "3", "9"), 7, 9),
              "; the threads of its user are limited to 9 (ulimit -u), and there are 9; remedy: "
              "prlimit --pid 7 --nproc=unlimited");
    EXPECT_EQ(describe_thread_limit(make_limits("3", "3", "9"), 7, 8), "");
    EXPECT_EQ(describe_thread_limit(make_limits("3", "3", "unlimited"), 7, 8), "");
}

TEST(TargetShortage, OtherErrorsAreLeftAlone) {
    EXPECT_EQ(explain_target_errno(getpid(), EIO), "");
    EXPECT_EQ(explain_target_errno(getpid(), 0), "");
}

}  // namespace
}  // namespace echion::cli
