// Unwinding by tables that were made to hang, or to eat memory: functions of this program whose
// call frame information is written by hand. They are never called.

#include "inject/unwinder.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <set>

#include "inject/prompt_tracer.h"
#include "inject/target_code.h"
#include "memory/page_batch.h"
#include "platform/process_reader.h"

// DW_CFA_def_cfa_expression of a DW_OP_skip by -3: the expression jumps to itself.
asm(R"(
    .text
    .type endless_expression, @function
endless_expression:
    .cfi_startproc
    .cfi_escape 0x0f, 0x03, 0x2f, 0xfd, 0xff
    nop
    ret
    .cfi_endproc
    .size endless_expression, . - endless_expression
)");

// A million DW_CFA_remember_state, each of which makes libunwind keep a copy of its state.
asm(R"(
    .type long_description, @function
long_description:
    .cfi_startproc
    .rept 1000000
    .cfi_escape 0x0a
    .endr
    nop
    ret
    .cfi_endproc
    .size long_description, . - long_description
)");

// 5,000 bytes of DW_CFA_GNU_args_size, and 300 places, for each of which libunwind follows them.
asm(R"(
    .type slow_function, @function
slow_function:
    .cfi_startproc
    .rept 2500
    .cfi_escape 0x2e, 0x00
    .endr
    .rept 300
    nop
    .endr
    ret
    .cfi_endproc
    .size slow_function, . - slow_function
)");

asm(R"(
    .type plain_function, @function
plain_function:
    .cfi_startproc
    .rept 300
    nop
    .endr
    ret
    .cfi_endproc
    .size plain_function, . - plain_function
)");

extern "C" {
extern const char endless_expression[];
extern const char long_description[];
extern const char slow_function[];
extern const char plain_function[];
}

namespace echion::inject {
namespace {

/// Counts what is read, and notes how its caller is scheduled.
class WitnessReader final : public MemoryReader {
  public:
    explicit WitnessReader(MemoryReader& reader) : reader_(reader) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        for (const ReadRequest& request : requests) {
            bytes += request.size_bytes;
        }
        policies.insert(sched_getscheduler(0) & ~SCHED_RESET_ON_FORK);
        return reader_.read(requests);
    }

    std::size_t bytes = 0;
    std::set<int> policies;

  private:
    MemoryReader& reader_;
};

class Unwinding : public testing::Test {
  protected:
    static constexpr std::size_t kFrames = 256;

    void SetUp() override {
        ASSERT_TRUE(process_.open(getpid(), Address()));
        auto code = TargetCode::read(process_, getpid());
        ASSERT_TRUE(code) << code.error().what;
        code_ = std::move(*code);
    }

    /// Walks a stack of return addresses that begins in `function`, and goes on in it at one place
    /// after the other; returns the number of frames seen.
    std::size_t walk(const char* function, bool& followed) {
        for (std::size_t i = 0; i < stack_.size(); ++i) {
            stack_[i] = reinterpret_cast<std::uintptr_t>(function) + 1 + i % kFrames;
        }
        const arch::Registers place =
            arch::make_place(Address(reinterpret_cast<std::uintptr_t>(function)),
                             Address(reinterpret_cast<std::uintptr_t>(stack_.data())));
        std::size_t frames = 0;
        followed = unwinder_.walk(place, kFrames, [&](const NativeFrame&) {
            ++frames;
            return true;
        });
        return frames;
    }

    ProcessReader process_;
    WitnessReader reader_{process_};
    TargetCode code_;
    Unwinder unwinder_{reader_, code_};
    std::array<std::uintptr_t, kFrames + 16> stack_{};
};

TEST_F(Unwinding, FollowsPlainTables) {
    bool followed = false;
    EXPECT_EQ(walk(plain_function, followed), kFrames);
    EXPECT_TRUE(followed);
}

TEST_F(Unwinding, ExpressionThatJumpsToItselfEnds) {
    bool followed = true;
    EXPECT_EQ(walk(endless_expression, followed), 1U);
    EXPECT_FALSE(followed);
    EXPECT_EQ(walk(plain_function, followed), kFrames) << "the next walk has a budget of its own";
    EXPECT_TRUE(followed);
}

TEST_F(Unwinding, DescriptionWithoutEndIsNotReadToIt) {
    bool followed = true;
    EXPECT_EQ(walk(long_description, followed), 1U);
    EXPECT_FALSE(followed);
    // A byte for each word of a step; and the pages, some more the larger this program is, of the
    // stack and of the search for the description.
    EXPECT_LE(reader_.bytes, Unwinder::kMaxStepWords + 8 * kPageBytes) << "of a million";
}

TEST_F(Unwinding, ManyFramesShareOneBudget) {
    bool followed = true;
    const std::size_t frames = walk(slow_function, followed);
    EXPECT_FALSE(followed);
    EXPECT_GT(frames, 1U);
    EXPECT_LE(frames, Unwinder::kMaxWalkWords / 5000 + 1);
}

TEST_F(Unwinding, NeverHappensBeforeOthers) {
    const PromptTracer tracer;
    const int before = sched_getscheduler(0);
    if ((before & ~SCHED_RESET_ON_FORK) != SCHED_RR) {
        GTEST_SKIP() << "this process may have no real-time priority";
    }
    bool followed = false;
    EXPECT_EQ(walk(plain_function, followed), kFrames);
    EXPECT_EQ(reader_.policies, std::set<int>{SCHED_OTHER});
    EXPECT_EQ(sched_getscheduler(0), before) << "and goes before others again";
}

TEST(OrdinaryTurn, LeavesAnOrdinaryThreadAsItIs) {
    const int before = sched_getscheduler(0);
    { const OrdinaryTurn turn; }
    EXPECT_EQ(sched_getscheduler(0), before);
}

}  // namespace
}  // namespace echion::inject
