#include "sampling/loop_codes.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "code/code_sink.h"

namespace echion::sampling {
namespace {

using Stack = std::vector<stream::FrameRef>;

constexpr std::string_view kLoopFile = "/usr/lib/python3.12/asyncio/base_events.py";
constexpr std::string_view kSelectFile = "/usr/lib/python3.12/selectors.py";

class LoopCodesTest : public testing::Test, private code::CodeSink {
  protected:
    void define_code(std::uint32_t id, std::string_view name, std::string_view file_name) {
        code::CodeDefinition code;
        code.id = id;
        code.name = name;
        code.file_name = file_name;
        codes_.define(code);
    }
    /// Frames of these code objects.
    static Stack stack(const std::vector<std::uint32_t>& ids) {
        Stack out;
        for (const std::uint32_t id : ids) {
            out.push_back({id, 4});
        }
        return out;
    }

    LoopCodes codes_{*this};
    std::vector<std::uint32_t> defined_;

  private:
    void define(const code::CodeDefinition& code) override { defined_.push_back(code.id); }
};

TEST_F(LoopCodesTest, AllDefinitionsArePassedOn) {
    define_code(1, "_run_once", kLoopFile);
    define_code(2, "select", kSelectFile);
    define_code(3, "main", "/app/main.py");
    EXPECT_EQ(defined_, (std::vector<std::uint32_t>{1, 2, 3}));
}

TEST_F(LoopCodesTest, ALoopReachesUpToItsRunOnce) {
    define_code(1, "_run_once", kLoopFile);
    define_code(2, "select", kSelectFile);
    EXPECT_EQ(codes_.find_loop(stack({7, 8, 1, 2})), 3U);
    EXPECT_EQ(codes_.find_loop(stack({7, 8, 1, 9, 9})), 3U);
    EXPECT_EQ(codes_.find_loop(stack({1})), 1U);
    EXPECT_EQ(codes_.find_loop(stack({7, 1, 9, 1, 2})), 4U) << "the innermost one of two";
    EXPECT_EQ(codes_.find_loop(stack({7, 2, 8})), 0U);
    EXPECT_EQ(codes_.find_loop({}), 0U);
}

TEST_F(LoopCodesTest, OnlyASelectorsSelectIsOne) {
    define_code(1, "_run_once", kLoopFile);
    define_code(2, "select", kSelectFile);
    define_code(3, "select", "/app/database.py");
    define_code(4, "register", kSelectFile);
    define_code(5, "_run_once", "/app/main.py");
    EXPECT_TRUE(codes_.is_select({2, 0}));
    for (const std::uint32_t id : {0U, 1U, 3U, 4U, 5U}) {
        EXPECT_FALSE(codes_.is_select({id, 0})) << id;
    }
    EXPECT_EQ(codes_.find_loop(stack({2, 3, 4, 5})), 0U);
}

TEST_F(LoopCodesTest, AnIdThatIsGivenAnewIsAnotherCodeObjects) {
    define_code(1, "_run_once", kLoopFile);
    define_code(2, "select", kSelectFile);
    define_code(1, "select", kSelectFile);
    define_code(2, "_run_once", kLoopFile);
    EXPECT_EQ(codes_.find_loop(stack({1, 2})), 2U);
    EXPECT_TRUE(codes_.is_select({1, 0}));
    EXPECT_FALSE(codes_.is_select({2, 0}));
    define_code(1, "main", "/app/main.py");
    define_code(2, "main", "/app/main.py");
    EXPECT_EQ(codes_.find_loop(stack({1, 2})), 0U);
    EXPECT_FALSE(codes_.is_select({1, 0}));
}

TEST_F(LoopCodesTest, OneThatIsDefinedAgainTakesNoMoreRoom) {
    for (int i = 0; i < 100; ++i) {
        define_code(1, "_run_once", kLoopFile);
        define_code(2, "select", kSelectFile);
    }
    define_code(3, "select", kSelectFile);
    EXPECT_TRUE(codes_.is_select({2, 0}));
    EXPECT_TRUE(codes_.is_select({3, 0}));
}

TEST_F(LoopCodesTest, MoreThanThereIsRoomForAreLeftOut) {
    for (std::uint32_t id = 1; id <= 100; ++id) {
        define_code(id, "select", kSelectFile);
    }
    EXPECT_TRUE(codes_.is_select({1, 0}));
    EXPECT_TRUE(codes_.is_select({16, 0}));
    EXPECT_FALSE(codes_.is_select({17, 0}));
    // One that is another's by now makes room.
    define_code(1, "main", "/app/main.py");
    define_code(17, "select", kSelectFile);
    EXPECT_FALSE(codes_.is_select({1, 0}));
    EXPECT_TRUE(codes_.is_select({17, 0}));
}

}  // namespace
}  // namespace echion::sampling
