#include "model/cpu_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>

namespace echion::model {
namespace {

using testing::ElementsAre;
using testing::Pair;

constexpr std::uint64_t kLongestGapNs = 10'000'000;

/// Sums up CPU time by thread name.
class Sums final : public ProfileEvents {
  public:
    std::map<std::string, std::uint64_t> cpu_ns;

    void start(std::uint64_t /*now_ns*/, PythonVersion /*version*/) override {}
    void tick(std::uint64_t /*ns*/) override {}
    void lost(std::uint64_t /*ticks*/, std::uint64_t /*ns*/) override {}
    void code(std::uint32_t /*code_id*/, const CodeView& /*code*/) override {}
    void thread(std::uint32_t thread_id, std::int64_t /*interpreter_id*/,
                std::uint32_t native_thread_id, std::string_view name) override {
        names_[thread_id] =
            name.empty() ? "number " + std::to_string(native_thread_id) : std::string(name);
    }
    void thread_end(std::uint32_t thread_id) override { names_.erase(thread_id); }
    void stack(std::uint32_t /*thread_id*/, StackMarks /*marks*/, std::uint32_t /*kept*/,
               std::span<const FrameLocation> /*frames*/) override {}
    void cpu(std::uint32_t thread_id, std::uint64_t ns) override {
        ASSERT_TRUE(names_.count(thread_id)) << "a thread that is not alive";
        cpu_ns[names_[thread_id]] += ns;
    }

    void missed(std::uint32_t thread_id, std::uint64_t ns) override {
        cpu_ns["missed of " + names_[thread_id]] += ns;
    }
    void share(std::uint32_t /*thread_id*/, std::uint32_t /*parts*/) override {}

  private:
    std::map<std::uint32_t, std::string> names_;
};

class Ledger : public testing::Test {
  protected:
    Sums sums_;
    CpuLedger ledger_{sums_};
};

TEST_F(Ledger, ASuspendedTaskIsNoThread) {
    ledger_.thread(0, 0, 17, "main");
    ledger_.thread(kFirstTaskThread, 0, 17, "main");
    ledger_.thread_end(kFirstTaskThread);
    EXPECT_EQ(ledger_.find(17), 0U);
    ledger_.thread(kFirstTaskThread + 1, 0, 18, "other");
    EXPECT_FALSE(ledger_.knows(18));
}

TEST_F(Ledger, BoundsTheNamesThatItKeeps) {
    for (std::uint32_t id = 1; id <= 20'000; ++id) {
        ledger_.thread(0, 0, id, std::string(4096, 'n'));
        ledger_.thread_end(0);
    }
    EXPECT_LT(ledger_.memory_bytes(), std::size_t{36} << 20);
    ledger_.settle(std::vector<CountedCpu>{{20'000, 5'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("number 20000", 5'000'000U)));
}

TEST_F(Ledger, GivesALivingThreadWhatIsMissing) {
    ledger_.thread(3, 0, 100, "worker");
    ledger_.cpu(3, 7'000'000);
    ledger_.settle(std::vector<CountedCpu>{{100, 9'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("worker", 9'000'000U)));
}

TEST_F(Ledger, AddsNothingToWhatIsComplete) {
    ledger_.thread(3, 0, 100, "worker");
    ledger_.cpu(3, 7'000'000);
    ledger_.settle(std::vector<CountedCpu>{{100, 6'000'000}, {0, 5'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("worker", 7'000'000U)));
}

TEST_F(Ledger, GivesAnEndedThreadWhatIsMissingUnderItsName) {
    ledger_.thread(3, 0, 100, "worker");
    ledger_.cpu(3, 7'000'000);
    ledger_.thread_end(3);
    ledger_.thread(3, 0, 101, "other");  // the id is another's now
    ledger_.settle(std::vector<CountedCpu>{{100, 9'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("worker", 9'000'000U)));
}

TEST_F(Ledger, TellsOfAThreadThatTheAgentNeverMetAsMissed) {
    ledger_.settle(std::vector<CountedCpu>{{55, 5'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("missed of number 55", 5'000'000U)));
}

TEST_F(Ledger, GivesNoStackMoreThanALittle) {
    ledger_.thread(3, 0, 100, "worker");
    ledger_.cpu(3, 7'000'000);
    ledger_.settle(std::vector<CountedCpu>{{100, 7'000'000 + kLongestGapNs + 1}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("missed of worker", kLongestGapNs + 1),
                                          Pair("worker", 7'000'000U)));
}

TEST_F(Ledger, FindsAThreadWhileItLives) {
    ledger_.thread(3, 0, 100, "worker");
    EXPECT_EQ(ledger_.find(100), 3U);
    ledger_.thread_end(3);
    EXPECT_EQ(ledger_.find(100), std::nullopt);
}

TEST_F(Ledger, CountsMissedTimeAsTold) {
    ledger_.thread(3, 0, 100, "worker");
    ledger_.missed(3, 7'000'000);
    ledger_.settle(std::vector<CountedCpu>{{100, 9'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns,
                ElementsAre(Pair("missed of worker", 7'000'000U), Pair("worker", 2'000'000U)));
}

TEST_F(Ledger, KnowsTheThreadsThatItWasToldOf) {
    ledger_.thread(1, 0, 100, "");
    ledger_.thread_end(1);
    EXPECT_TRUE(ledger_.knows(100));
    EXPECT_FALSE(ledger_.knows(101));
}

TEST_F(Ledger, AddsUpThreadsThatHadTheSameNumber) {
    ledger_.thread(1, 0, 100, "first");
    ledger_.cpu(1, 2'000'000);
    ledger_.thread_end(1);
    ledger_.thread(1, 0, 100, "second");
    ledger_.cpu(1, 3'000'000);
    ledger_.settle(std::vector<CountedCpu>{{100, 2'000'000}, {100, 4'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("first", 2'000'000U), Pair("second", 4'000'000U)));
}

TEST_F(Ledger, AThreadThatIsNotGivenAgainAfterALossHasEnded) {
    ledger_.thread(1, 0, 100, "gone");
    ledger_.thread(2, 0, 101, "with a stack");
    ledger_.thread(3, 0, 102, "without");
    ledger_.tick(1'000'000);
    ledger_.lost(1, 1'000'000);
    ledger_.stack(2, {}, 0, {});
    ledger_.tick(0);
    ledger_.thread(3, 0, 102, "without");
    EXPECT_EQ(ledger_.find(100), 1U);
    ledger_.tick(1'000'000);
    EXPECT_EQ(ledger_.find(100), std::nullopt);
    EXPECT_EQ(ledger_.find(101), 2U);
    EXPECT_EQ(ledger_.find(102), 3U);
}

TEST_F(Ledger, SettlesForAThreadWhoseEndWasLost) {
    ledger_.thread(1, 0, 100, "gone");
    ledger_.tick(1'000'000);
    ledger_.lost(1, 1'000'000);
    ledger_.thread(1, 0, 101, "has its number");
    ledger_.settle(std::vector<CountedCpu>{{100, 3'000'000}, {101, 4'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns,
                ElementsAre(Pair("gone", 3'000'000U), Pair("has its number", 4'000'000U)));
}

TEST_F(Ledger, KnowsWhichThreadsAreNewHoweverManyThereAre) {
    ledger_.thread(0, 0, 1, "known");
    ledger_.thread_end(0);
    std::vector<CountedCpu> counted;
    for (std::uint32_t native_id = 1; native_id <= 1000; ++native_id) {
        counted.push_back({native_id, 2'000'000});
    }
    ledger_.settle(counted, kLongestGapNs);
    EXPECT_EQ(sums_.cpu_ns.size(), 1000U);
    EXPECT_EQ(sums_.cpu_ns["known"], 2'000'000U);
    EXPECT_EQ(sums_.cpu_ns["missed of number 1000"], 2'000'000U);
}

TEST_F(Ledger, TellsWhatAnEndedThreadWasGivenTooMuch) {
    ledger_.thread(1, 0, 100, "ended");
    ledger_.cpu(1, 7'000'000);
    ledger_.thread_end(1);
    ledger_.thread(2, 0, 101, "alive");
    ledger_.cpu(2, 7'000'000);
    ledger_.settle(std::vector<CountedCpu>{{100, 5'000'000}, {101, 6'000'000}}, kLongestGapNs);
    EXPECT_EQ(ledger_.overcounted_ns(), 2'000'000U);
}

TEST_F(Ledger, DoesNotWrapOverWhatAHostileAgentClaims) {
    ledger_.thread(1, 0, 100, "liar");
    ledger_.cpu(1, std::numeric_limits<std::uint64_t>::max());
    sums_.cpu_ns.clear();
    ledger_.cpu(1, 10);
    ledger_.settle(std::vector<CountedCpu>{{100, 2'000'000}}, kLongestGapNs);
    EXPECT_THAT(sums_.cpu_ns, ElementsAre(Pair("liar", 10U)));
}

}  // namespace
}  // namespace echion::model
