#include "cpython/locate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "platform/process_modules.h"
#include "platform/process_reader.h"

namespace echion::cpython {
namespace {

Result<Version> parse(const std::string& text) {
    return parse_version_text(text.data(), text.size());
}

TEST(ParseVersionText, FindsTheVersionAmongOtherData) {
    const std::string before("\x01\x02\x00", 3);
    const auto version = parse(before + "3.8.18 (default, Nov 22 2024, 10:00:00) \n[GCC 12.2.0]");
    ASSERT_TRUE(version);
    EXPECT_EQ(version->major, 3);
    EXPECT_EQ(version->minor, 8);
    EXPECT_EQ(version->micro, 18);
}

TEST(ParseVersionText, KnowsPython2ToNameIt) {
    const auto version = parse("2.7.18 (default, Nov 22 2024, 10:00:00) \n[GCC 12.2.0]");
    ASSERT_TRUE(version);
    EXPECT_EQ(version->major, 2);
    EXPECT_EQ(version->minor, 7);
}

TEST(ParseVersionText, KnowsSuffixes) {
    EXPECT_TRUE(parse("3.13.0rc1+ (heads/main:abc, x)"));
    EXPECT_TRUE(parse("3.12.0b4 (main)"));
    EXPECT_TRUE(parse("3.13.15 experimental free-threading build (main)"));
    EXPECT_TRUE(parse("3.15.0rc2+ free-threading build (main)"));
}

TEST(ParseVersionText, RefusesWhatOnlyLooksLikeIt) {
    for (const char* text : {"3.14.7 free-threading build", "3.14.7 free (x)", "", "3.", "3.8",
                             "3.8.18", "3.8.18(", "3.8 (x)", "3.999.1 (x)", "3.1000.1 (x)",
                             "python/3.8.18 (x)", "3.8.18; (x)", "2.6.9 (x)", ".8.18 (x)"}) {
        EXPECT_FALSE(parse(text)) << text;
    }
}

TEST(LocatedRuntime, ACopyPointsToItsOwnLayout) {
    LocatedRuntime copy;
    {
        LocatedRuntime original;
        original.own_layout = *find_layout({3, 13, 0});
        original.has_own_layout = true;
        original.view.layout = &original.own_layout;
        copy = original;
    }
    EXPECT_EQ(copy.view.layout, &copy.own_layout);
    EXPECT_EQ(copy.view.layout->minor, 13);
}

TEST(LocateRuntime, AProcessWithoutPythonHasNone) {
    ProcessReader reader;
    ASSERT_TRUE(reader.open(getpid(), Address()));
    LocatedRuntime located;
    const auto status = locate_runtime(reader, kOwnProcess, located);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kNotPython);
}

TEST(LocateRuntime, NoSuchProcessIsASystemError) {
    ProcessReader reader;
    ASSERT_TRUE(reader.open(0x3fffffff, Address()));
    LocatedRuntime located;
    const auto status = locate_runtime(reader, 0x3fffffff, located);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kSystem);
}

}  // namespace
}  // namespace echion::cpython
