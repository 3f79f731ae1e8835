#include "platform/process_modules.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "platform/linux/proc_file.h"

namespace echion {
namespace {

TEST(ParseMappedRange, ReadsAllFields) {
    const auto range = parse_mapped_range(
        "7f12a000-7f12b000 r-xp 00001000 fd:01 1234567    /usr/lib/some lib.so (deleted)");
    ASSERT_TRUE(range);
    EXPECT_EQ(range->start, Address(0x7f12a000));
    EXPECT_EQ(range->end, Address(0x7f12b000));
    EXPECT_EQ(range->file_offset, 0x1000U);
    EXPECT_EQ(range->inode, 1234567U);
    EXPECT_TRUE(range->readable);
    EXPECT_FALSE(range->writable);
    EXPECT_TRUE(range->executable);
    EXPECT_FALSE(range->shared);
    EXPECT_TRUE(range->deleted);
    EXPECT_EQ(range->path, "/usr/lib/some lib.so");
}

TEST(ParseMappedRange, AnonymousMemoryHasNoPath) {
    const auto range = parse_mapped_range("7f00-7f10 rw-s 00000000 00:00 0 ");
    ASSERT_TRUE(range);
    EXPECT_TRUE(range->path.empty());
    EXPECT_TRUE(range->shared);
}

TEST(ParseMappedRange, RefusesWhatIsNoLine) {
    for (const char* line :
         {"", "x", "7f00", "7f00-", "7f00-7f10", "7f10-7f00 r--p 0 00:00 0 ",
          "7f00-7f10 qwerty 0 00:00 0", "7f00-7f10 r--p 0 0000 0", "7f00-7f10 r--p 0 00:00 x",
          "fffffffffffffffff-0 r--p 0 00:00 0", "7f00-7f10 r--p 0 fffffffff:00 0"}) {
        EXPECT_FALSE(parse_mapped_range(line)) << line;
    }
}

TEST(UnescapePath, TurnsTheKernelsEscapeIntoANewline) {
    char path[16];
    ASSERT_TRUE(unescape_path("a\\012b\\01", path, sizeof(path)));
    EXPECT_STREQ(path, "a\nb\\01");
}

TEST(UnescapePath, RefusesAPathThatDoesNotFit) {
    char path[4];
    EXPECT_TRUE(unescape_path("abc", path, sizeof(path)));
    EXPECT_FALSE(unescape_path("abcd", path, sizeof(path)));
}

TEST(ForEachMappedRange, FindsMemoryOfThisProcess) {
    const long page = sysconf(_SC_PAGESIZE);
    void* own =
        mmap(nullptr, static_cast<std::size_t>(page), PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(own, MAP_FAILED);
    bool found = false;
    ASSERT_TRUE(for_each_mapped_range(kOwnProcess, [&](const MappedRange& range) {
        found = range.contains(Address(reinterpret_cast<std::uintptr_t>(own)));
        return !found;
    }));
    EXPECT_TRUE(found);
    munmap(own, static_cast<std::size_t>(page));
}

TEST(ForEachMappedRange, BeginsAnOpenMapAnewEachTime) {
    const auto map = open_proc_file(kOwnThread, "maps");
    ASSERT_TRUE(map);
    for (int look = 0; look < 2; ++look) {
        bool is_found = false;
        ASSERT_TRUE(for_each_mapped_range(*map, [&](const MappedRange& range) {
            is_found = range.contains(Address(reinterpret_cast<std::uintptr_t>(&look)));
            return !is_found;
        }));
        EXPECT_TRUE(is_found);
    }
}

TEST(ForEachMappedRange, NoSuchProcessIsASystemError) {
    const auto status = for_each_mapped_range(0x3fffffff, [](const MappedRange&) { return true; });
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kSystem);
    EXPECT_EQ(status.error().system_errno, ENOENT);
}

TEST(ForEachLine, PassesOverLinesThatAreTooLong) {
    UniqueFd file(memfd_create("lines", 0));
    const std::string text = "first\n" + std::string(20000, 'x') + "\nsecond\n\nlast";
    ASSERT_EQ(write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    lseek(file.get(), 0, SEEK_SET);
    std::vector<std::string> lines;
    ASSERT_TRUE(for_each_line(file.get(), [&](std::string_view line) {
        lines.emplace_back(line);
        return true;
    }));
    EXPECT_THAT(lines, testing::ElementsAre("first", "second", "", "last"));
}

TEST(OpenMappedFile, OpensAFileWithAwkwardName) {
    std::string folder = testing::TempDir() + "echion-modules-XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    const std::string path = folder + "/a b\nc (deleted";
    UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(file);
    ASSERT_EQ(write(file.get(), "content", 7), 7);
    void* mapped = mmap(nullptr, 7, PROT_READ, MAP_PRIVATE, file.get(), 0);
    ASSERT_NE(mapped, MAP_FAILED);
    bool found = false;
    ASSERT_TRUE(for_each_module(kOwnProcess, [&](const MappedRange& range) {
        if (!range.contains(Address(reinterpret_cast<std::uintptr_t>(mapped)))) {
            return true;
        }
        found = true;
        const auto opened = open_mapped_file(getpid(), range);
        EXPECT_TRUE(opened);
        char content[7] = {};
        EXPECT_EQ(opened ? pread(opened->get(), content, 7, 0) : 0, 7);
        EXPECT_EQ(std::memcmp(content, "content", 7), 0);
        return false;
    }));
    EXPECT_TRUE(found);
    munmap(mapped, 7);
    unlink(path.c_str());
    rmdir(folder.c_str());
}

TEST(ForEachLine, EndsBehindItsBytes) {
    const UniqueFd file(memfd_create("lines", MFD_CLOEXEC));
    ASSERT_TRUE(file);
    std::string text;
    for (int i = 0; i < 1000; ++i) {
        text += std::string(99, 'x') + '\n';
    }
    text += std::string(50'000, 'y');  // a line that is passed over counts as well
    ASSERT_EQ(pwrite(file.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    const auto walk = [&](std::uint64_t max_bytes, int& lines) {
        lines = 0;
        lseek(file.get(), 0, SEEK_SET);
        return for_each_line(
            file.get(), [&lines](std::string_view) { return ++lines > 0; }, max_bytes);
    };
    int lines = 0;
    EXPECT_TRUE(walk(150'000, lines));
    EXPECT_EQ(lines, 1000);
    const Status cut = walk(120'000, lines);
    ASSERT_FALSE(cut);
    EXPECT_EQ(cut.error().kind, ErrorKind::kBoundExceeded);
    EXPECT_FALSE(walk(50'000, lines));
    EXPECT_LE(lines, 500);
}

}  // namespace
}  // namespace echion
