#include "output/late_names.h"

#include <gtest/gtest.h>

namespace echion::output {
namespace {

constexpr std::size_t kMostBytes = std::size_t{1} << 20;

TEST(LateNames, HoldsSoMuchOnlyWhateverTheRecordsAre) {
    for (const std::size_t tail_bytes : {std::size_t{0}, std::size_t{1}, std::size_t{5000}}) {
        LateNames names;
        LateNames::Thread thread;
        thread.may_be_named = true;
        std::size_t kept = 0;
        std::string tail(tail_bytes, 't');
        while (kept <= kMostBytes && names.keep(thread, tail, 1)) {
            ++kept;
            tail.assign(tail_bytes, 't');
        }
        EXPECT_GE(kept, 100U) << tail_bytes;
        const std::size_t held_bytes =
            thread.records.capacity() * sizeof(LateNames::Record) + kept * tail_bytes;
        EXPECT_LE(held_bytes, kMostBytes) << tail_bytes;
        EXPECT_GE(names.waiting_bytes(), held_bytes) << tail_bytes;
        EXPECT_FALSE(names.keep(thread, tail, 1)) << "its records would come out of order";
        EXPECT_EQ(names.take(thread).size(), kept);
        EXPECT_EQ(names.waiting_bytes(), 0U);
    }
}

TEST(LateNames, ATailThatWasNotTakenIsWhole) {
    LateNames names;
    LateNames::Thread thread;
    std::string tail("tail");
    EXPECT_FALSE(names.keep(thread, tail, 1));
    EXPECT_EQ(tail, "tail");
}

}  // namespace
}  // namespace echion::output
