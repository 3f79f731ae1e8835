// What filters say to calls, in full and when not every argument is known; and filters that no
// kernel would have taken.

#include "inject/seccomp_filter.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

#include "inject/arch.h"
#include "inject/needed_calls.h"

namespace echion::inject {
namespace {

constexpr std::uint32_t kKill = SECCOMP_RET_KILL_PROCESS;
constexpr std::uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr std::uint16_t kLoad = BPF_LD | BPF_W | BPF_ABS;
constexpr std::uint16_t kIfEqual = BPF_JMP | BPF_JEQ | BPF_K;
constexpr std::uint16_t kReturn = BPF_RET | BPF_K;
constexpr std::uint32_t kNumber = offsetof(seccomp_data, nr);
constexpr std::uint32_t kArchitecture = offsetof(seccomp_data, arch);
constexpr std::uint32_t low_half(unsigned argument) {
    return static_cast<std::uint32_t>(offsetof(seccomp_data, args)) + 8 * argument;
}

sock_filter one(std::uint16_t code, std::uint32_t k, std::uint8_t jt = 0, std::uint8_t jf = 0) {
    return {code, jt, jf, k};
}

FilteredCall make_call(std::uint32_t number, CallArgument first = {}, CallArgument second = {}) {
    FilteredCall call{number, AUDIT_ARCH_X86_64, {}};
    call.arguments[0] = first;
    call.arguments[1] = second;
    return call;
}

Result<FilterOutcome> evaluate(const SeccompFilter& filter, const FilteredCall& call,
                               std::size_t steps = 1'000'000) {
    return evaluate_filters({&filter, 1}, call, steps);
}

/// For programs that decide one way.
std::uint32_t decide(const SeccompFilter& filter, const FilteredCall& call) {
    const auto outcome = evaluate(filter, call);
    EXPECT_TRUE(outcome);
    EXPECT_EQ(outcome->worst, outcome->best);
    return outcome->worst;
}

/// Runs instructions on the accumulator, and returns what it then holds.
std::uint32_t calculate(SeccompFilter filter) {
    filter.push_back(one(BPF_RET | BPF_A, 0));
    return decide(filter, make_call(0));
}

SeccompFilter on_call(std::uint32_t number, std::uint32_t then, std::uint32_t otherwise = kAllow) {
    return {one(kLoad, kNumber), one(kIfEqual, number, 0, 1), one(kReturn, then),
            one(kReturn, otherwise)};
}

SeccompFilter on_argument(unsigned argument, std::uint32_t value, std::uint32_t then,
                          std::uint32_t otherwise = kAllow) {
    return {one(kLoad, low_half(argument)), one(kIfEqual, value, 0, 1), one(kReturn, then),
            one(kReturn, otherwise)};
}

TEST(SeccompFilter, DecidesByNumberAndArchitecture) {
    EXPECT_EQ(decide(on_call(7, kKill), make_call(7)), kKill);
    EXPECT_EQ(decide(on_call(7, kKill), make_call(8)), kAllow);
    const SeccompFilter foreign = {one(kLoad, kArchitecture),
                                   one(kIfEqual, AUDIT_ARCH_X86_64, 1, 0), one(kReturn, kKill),
                                   one(kReturn, kAllow)};
    EXPECT_EQ(decide(foreign, make_call(7)), kAllow);
    FilteredCall other = make_call(7);
    other.architecture = AUDIT_ARCH_I386;
    EXPECT_EQ(decide(foreign, other), kKill);
    // The numbers of the x32 ABI have bit 30 set.
    const SeccompFilter x32 = {one(kLoad, kNumber),
                               one(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
                               one(kReturn, kKill), one(kReturn, kAllow)};
    EXPECT_EQ(decide(x32, make_call(7)), kAllow);
    EXPECT_EQ(decide(x32, make_call(0x40000007)), kKill);
}

TEST(SeccompFilter, LooksAtBothHalvesOfAnArgument) {
    const FilteredCall call = make_call(1, CallArgument::word(0x1234'0000'0005));
    EXPECT_EQ(decide({one(kLoad, low_half(0)), one(BPF_RET | BPF_A, 0)}, call), 5U);
    EXPECT_EQ(decide({one(kLoad, low_half(0) + 4), one(BPF_RET | BPF_A, 0)}, call), 0x1234U);
}

TEST(SeccompFilter, GoesBothWaysOnWhatIsNotKnown) {
    const auto outcome = evaluate(on_argument(0, 5, kKill), make_call(1));
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->worst, kKill);
    EXPECT_EQ(outcome->best, kAllow);
    // Of an int the upper half is not known.
    const FilteredCall with_int = make_call(1, CallArgument::integer(-100));
    EXPECT_EQ(decide(on_argument(0, 0xffffff9c, kKill), with_int), kKill);
    const auto upper = evaluate({one(kLoad, low_half(0) + 4), one(kIfEqual, 0, 1, 0),
                                 one(kReturn, kKill), one(kReturn, kAllow)},
                                with_int);
    ASSERT_TRUE(upper);
    EXPECT_EQ(upper->worst, kKill);
    EXPECT_EQ(upper->best, kAllow);
}

TEST(SeccompFilter, KnowsWhatABranchHasProved) {
    // Behind `if (arg == 5)` it is 5: the second question has one answer.
    const SeccompFilter twice = {one(kLoad, low_half(0)), one(kIfEqual, 5, 0, 2),
                                 one(kIfEqual, 5, 1, 0), one(kReturn, kKill), one(kReturn, kAllow)};
    const auto outcome = evaluate(twice, make_call(1));
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->best, kAllow);
    const SeccompFilter masked = {one(kLoad, low_half(0)), one(BPF_ALU | BPF_AND | BPF_K, 0),
                                  one(kIfEqual, 0, 1, 0), one(kReturn, kKill),
                                  one(kReturn, kAllow)};
    EXPECT_EQ(decide(masked, make_call(1)), kAllow);
}

TEST(SeccompFilter, AReturnedValueThatIsNotKnownMayBeAnything) {
    const auto outcome = evaluate({one(kLoad, low_half(0)), one(BPF_RET | BPF_A, 0)}, make_call(1));
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->worst, kKill);
    EXPECT_EQ(outcome->best, kAllow);
}

TEST(SeccompFilter, Calculates) {
    const auto with = [](std::uint16_t operation, std::uint32_t a, std::uint32_t k) {
        const std::uint32_t constant =
            calculate({one(BPF_LD | BPF_IMM, a), one(BPF_ALU | operation | BPF_K, k)});
        const std::uint32_t by_register =
            calculate({one(BPF_LDX | BPF_IMM, k), one(BPF_LD | BPF_IMM, a),
                       one(BPF_ALU | operation | BPF_X, 0)});
        EXPECT_EQ(constant, by_register);
        return constant;
    };
    EXPECT_EQ(with(BPF_ADD, 0xffffffff, 2), 1U);
    EXPECT_EQ(with(BPF_SUB, 1, 2), 0xffffffffU);
    EXPECT_EQ(with(BPF_MUL, 0x10000, 0x10001), 0x10000U);
    EXPECT_EQ(with(BPF_DIV, 7, 2), 3U);
    EXPECT_EQ(with(BPF_AND, 0xff00, 0x0ff0), 0x0f00U);
    EXPECT_EQ(with(BPF_OR, 0xff00, 0x0ff0), 0xfff0U);
    EXPECT_EQ(with(BPF_XOR, 0xff00, 0x0ff0), 0xf0f0U);
    EXPECT_EQ(with(BPF_LSH, 1, 31), 0x80000000U);
    EXPECT_EQ(with(BPF_RSH, 0x80000000, 31), 1U);
    EXPECT_EQ(calculate({one(BPF_LD | BPF_IMM, 1), one(BPF_ALU | BPF_NEG, 0)}), 0xffffffffU);
    EXPECT_EQ(calculate({one(BPF_LD | BPF_W | BPF_LEN, 0)}), 64U);
    EXPECT_EQ(calculate({one(BPF_LD | BPF_IMM, 9), one(BPF_ST, 15), one(BPF_LD | BPF_IMM, 0),
                         one(BPF_LD | BPF_MEM, 15), one(BPF_MISC | BPF_TAX, 0), one(BPF_STX, 3),
                         one(BPF_LDX | BPF_MEM, 3), one(BPF_MISC | BPF_TXA, 0)}),
              9U);
}

TEST(SeccompFilter, ADivisionByZeroEndsWithZero) {
    EXPECT_EQ(
        decide({one(BPF_LDX | BPF_IMM, 0), one(BPF_ALU | BPF_DIV | BPF_X, 0), one(kReturn, kAllow)},
               make_call(1)),
        SECCOMP_RET_KILL_THREAD);
    const auto unknown =
        evaluate({one(kLoad, low_half(0)), one(BPF_MISC | BPF_TAX, 0), one(BPF_LD | BPF_IMM, 8),
                  one(BPF_ALU | BPF_DIV | BPF_X, 0), one(kReturn, kAllow)},
                 make_call(1));
    ASSERT_TRUE(unknown);
    EXPECT_EQ(effect_of(unknown->worst), FilterEffect::kKills);
}

TEST(SeccompFilter, JumpsAsItIsTold) {
    const auto jump = [](std::uint16_t operation, std::uint32_t a, std::uint32_t k) {
        return decide({one(BPF_LD | BPF_IMM, a), one(BPF_JMP | operation | BPF_K, k, 1, 0),
                       one(kReturn, kAllow), one(kReturn, kKill)},
                      make_call(1)) == kKill;
    };
    EXPECT_TRUE(jump(BPF_JGT, 2, 1) && !jump(BPF_JGT, 1, 1));
    EXPECT_TRUE(jump(BPF_JGE, 1, 1) && !jump(BPF_JGE, 0, 1));
    EXPECT_TRUE(jump(BPF_JSET, 6, 2) && !jump(BPF_JSET, 4, 2));
    EXPECT_EQ(
        decide({one(BPF_JMP | BPF_JA, 1), one(kReturn, kKill), one(kReturn, kAllow)}, make_call(1)),
        kAllow);
}

TEST(SeccompFilter, TheMostRestrictiveOfAllFiltersCounts) {
    const std::vector<SeccompFilter> filters = {on_call(7, SECCOMP_RET_ERRNO | EPERM),
                                                on_call(7, kKill), on_call(8, SECCOMP_RET_LOG)};
    std::size_t steps = 1000;
    EXPECT_EQ(evaluate_filters(filters, make_call(7), steps)->worst, kKill);
    EXPECT_EQ(evaluate_filters(filters, make_call(8), steps)->worst, SECCOMP_RET_LOG);
    EXPECT_EQ(evaluate_filters(filters, make_call(9), steps)->best, kAllow);
    EXPECT_EQ(evaluate_filters({}, make_call(9), steps)->worst, kAllow);
    const std::uint32_t order[] = {kKill,
                                   SECCOMP_RET_KILL_THREAD,
                                   SECCOMP_RET_TRAP,
                                   SECCOMP_RET_ERRNO | EPERM,
                                   SECCOMP_RET_ERRNO | ENOSYS,
                                   SECCOMP_RET_USER_NOTIF,
                                   SECCOMP_RET_TRACE,
                                   SECCOMP_RET_LOG,
                                   kAllow};
    for (std::size_t i = 0; i + 1 < std::size(order); ++i) {
        EXPECT_TRUE(is_more_restrictive(order[i], order[i + 1])) << i;
        EXPECT_FALSE(is_more_restrictive(order[i + 1], order[i])) << i;
    }
}

TEST(SeccompFilter, RefusesWhatNoKernelWouldHaveTaken) {
    const FilteredCall call = make_call(1);
    const SeccompFilter broken[] = {
        {},
        {one(kLoad, 0)},                         // no return
        {one(kLoad, 64), one(kReturn, kAllow)},  // behind the data
        {one(kLoad, 2), one(kReturn, kAllow)},   // not a word's place
        {one(kLoad, 0xffffffff), one(kReturn, kAllow)},
        {one(kIfEqual, 0, 1, 1), one(kReturn, kAllow)},  // behind the end
        {one(kIfEqual, 0, 255, 0), one(kReturn, kAllow)},
        {one(BPF_JMP | BPF_JA, 1), one(kReturn, kAllow)},
        {one(BPF_JMP | BPF_JA, 0xffffffff), one(kReturn, kAllow)},
        {one(BPF_ST, 16), one(kReturn, kAllow)},
        {one(BPF_LD | BPF_MEM, 0xffffffff), one(kReturn, kAllow)},
        {one(BPF_LD | BPF_W | BPF_IND, 0), one(kReturn, kAllow)},
        {one(BPF_LD | BPF_B | BPF_ABS, 0), one(kReturn, kAllow)},
        {one(BPF_ALU | 0xd0, 1), one(kReturn, kAllow)},
        {one(BPF_JMP | 0x90, 1), one(kReturn, kAllow)},
        {one(BPF_RET | 0x18, 0)},
        {one(0xffff, 0), one(kReturn, kAllow)},
        SeccompFilter(kMaxFilterInstructions + 1, one(kReturn, kAllow)),
    };
    for (std::size_t i = 0; i < std::size(broken); ++i) {
        const auto outcome = evaluate(broken[i], call);
        ASSERT_FALSE(outcome) << i;
        EXPECT_EQ(outcome.error().kind, ErrorKind::kInvalid) << i;
    }
}

TEST(SeccompFilter, TheLongestProgramIsFollowedToItsEnd) {
    SeccompFilter longest(kMaxFilterInstructions, one(BPF_LD | BPF_IMM, 1));
    longest.back() = one(kReturn, kKill);
    EXPECT_EQ(decide(longest, make_call(1)), kKill);
    EXPECT_EQ(evaluate(longest, make_call(1), longest.size() - 1).error().kind,
              ErrorKind::kBoundExceeded);
}

TEST(SeccompFilter, ManyBranchesOnTheUnknownAreBounded) {
    // Each question doubles the number of paths, and each path leaves another value.
    SeccompFilter branching = {one(BPF_LD | BPF_IMM, 0), one(BPF_ST, 0)};
    for (int i = 0; i < 400; ++i) {
        branching.push_back(one(kLoad, low_half(0)));
        branching.push_back(one(kIfEqual, static_cast<std::uint32_t>(i), 0, 3));
        branching.push_back(one(BPF_LD | BPF_MEM, 0));
        branching.push_back(
            one(BPF_ALU | BPF_XOR | BPF_K, std::uint32_t{1} << static_cast<unsigned>(i % 32)));
        branching.push_back(one(BPF_ST, 0));
    }
    branching.push_back(one(BPF_LD | BPF_MEM, 0));
    branching.push_back(one(kIfEqual, 0xdeadbeef, 0, 1));
    branching.push_back(one(kReturn, kKill));
    branching.push_back(one(kReturn, kAllow));
    const auto outcome = evaluate(branching, make_call(1), 2'000'000);
    ASSERT_TRUE(outcome) << outcome.error().what;
    EXPECT_EQ(outcome->worst, kKill);
    EXPECT_EQ(outcome->best, kAllow);
    EXPECT_EQ(evaluate(branching, make_call(1), 1000).error().kind, ErrorKind::kBoundExceeded);
}

// A process with a C library of today, which has had threads.
constexpr CallFacts kFacts = {.has_rseq = true, .makes_threads_by_clone3 = true};

CallObjection judge(const std::vector<SeccompFilter>& filters, const CallFacts& facts = kFacts) {
    const auto objection = judge_filters(filters, facts);
    EXPECT_TRUE(objection);
    return *objection;
}

TEST(NeededCalls, AFilterThatAllowsEverythingIsNoReason) {
    EXPECT_EQ(judge({}).call, nullptr);
    EXPECT_EQ(judge({{one(kReturn, kAllow)}}).call, nullptr);
    EXPECT_EQ(judge({on_call(SYS_ptrace, kKill)}).call, nullptr);
}

TEST(NeededCalls, NamesTheCallAndWhatHappens) {
    const auto killed = judge({on_call(SYS_memfd_create, kKill)});
    ASSERT_NE(killed.call, nullptr);
    EXPECT_STREQ(killed.call->name, "memfd_create");
    EXPECT_EQ(killed.effect, FilterEffect::kKills);
    EXPECT_TRUE(killed.is_certain);
    EXPECT_EQ(judge({on_call(SYS_sendto, SECCOMP_RET_TRAP)}).effect, FilterEffect::kTraps);
    EXPECT_EQ(judge({on_call(SYS_sendto, SECCOMP_RET_USER_NOTIF)}).effect, FilterEffect::kAsks);
    EXPECT_EQ(judge({on_call(SYS_sendto, 0x12340000)}).effect, FilterEffect::kKills);
}

TEST(NeededCalls, ARefusalCountsOnlyWhereThereIsNoOtherWay) {
    const std::uint32_t refuse = SECCOMP_RET_ERRNO | EPERM;
    EXPECT_EQ(judge({on_call(SYS_process_vm_writev, refuse)}).call, nullptr);
    const auto required = judge({on_call(SYS_socketpair, refuse)});
    ASSERT_NE(required.call, nullptr);
    EXPECT_EQ(required.effect, FilterEffect::kRefuses);
    EXPECT_EQ(required.system_errno, EPERM);
    // Threads are made by either call.
    EXPECT_EQ(judge({on_call(SYS_clone3, SECCOMP_RET_ERRNO | ENOSYS)}).call, nullptr);
    EXPECT_EQ(judge({on_call(SYS_clone, refuse)}).call, nullptr);
    const auto no_thread = judge({on_call(SYS_clone, refuse), on_call(SYS_clone3, refuse)});
    ASSERT_NE(no_thread.call, nullptr);
    EXPECT_STREQ(no_thread.call->name, "clone3");
}

/// Whether a filter that kills on a call surely ends a process of which this is known.
bool surely_kills(long number, const CallFacts& facts, std::uint32_t answer = kKill) {
    const auto objection = judge({on_call(static_cast<std::uint32_t>(number), answer)}, facts);
    EXPECT_NE(objection.call, nullptr);
    return objection.is_certain;
}

TEST(NeededCalls, WhatIsSurelyMadeKillsForCertain) {
    for (const std::uint32_t answer : {kKill, std::uint32_t{SECCOMP_RET_TRAP}}) {
        for (const long number : {SYS_close_range, SYS_pread64, SYS_poll, SYS_sched_getaffinity}) {
            EXPECT_TRUE(surely_kills(number, kFacts, answer)) << number;
        }
    }
    EXPECT_TRUE(surely_kills(SYS_rseq, {.has_rseq = true}));
    EXPECT_EQ(judge({on_call(SYS_rseq, kKill)}, {}).call, nullptr);
}

TEST(NeededCalls, TheCLibraryDecidesByWhichCallThreadsAreMade) {
    const CallFacts old = {.makes_threads_by_clone3 = false};
    EXPECT_TRUE(surely_kills(SYS_clone3, kFacts));
    EXPECT_TRUE(surely_kills(SYS_clone3, kFacts, SECCOMP_RET_TRAP));
    EXPECT_FALSE(surely_kills(SYS_clone3, old));
    EXPECT_FALSE(surely_kills(SYS_clone, kFacts));
    EXPECT_TRUE(surely_kills(SYS_clone, old));
    // It takes the other one for ENOSYS alone.
    const auto no_clone3 = on_call(SYS_clone3, SECCOMP_RET_ERRNO | ENOSYS);
    EXPECT_TRUE(judge({no_clone3, on_call(SYS_clone, kKill)}).is_certain);
    EXPECT_STREQ(judge({no_clone3, on_call(SYS_clone, kKill)}).call->name, "clone");
    const auto refused = judge({on_call(SYS_clone3, SECCOMP_RET_ERRNO | EPERM)});
    ASSERT_NE(refused.call, nullptr);
    EXPECT_TRUE(refused.is_certain);
    EXPECT_EQ(refused.system_errno, EPERM);
    EXPECT_EQ(judge({on_call(SYS_clone3, SECCOMP_RET_ERRNO | EPERM)}, old).call, nullptr);
}

TEST(NeededCalls, OtherCallsThatHingeOnTheProcess) {
    EXPECT_TRUE(surely_kills(SYS_fstat, {.has_fstat_by_fstatat = false}));
    EXPECT_TRUE(surely_kills(SYS_fstat, {.has_fstat_by_fstatat = true}));  // the agent's own
    EXPECT_TRUE(surely_kills(SYS_newfstatat, {.has_fstat_by_fstatat = true}));
    EXPECT_FALSE(surely_kills(SYS_newfstatat, {.has_fstat_by_fstatat = false}));
    const auto on_first_argument = [](std::uint32_t number, std::uint32_t value) {
        return SeccompFilter{one(kLoad, kNumber),     one(kIfEqual, number, 0, 2),
                             one(kLoad, low_half(0)), one(kIfEqual, value, 1, 0),
                             one(kReturn, kAllow),    one(kReturn, kKill)};
    };
    const std::vector<SeccompFilter> broadcast = {on_first_argument(SYS_rt_sigaction, 33)};
    EXPECT_TRUE(judge(broadcast, {.has_to_prepare_for_threads = true}).is_certain);
    EXPECT_FALSE(judge(broadcast, {.has_to_prepare_for_threads = false}).is_certain);
}

TEST(NeededCalls, TheCLibraryDecidesHowStacksAndHeapsAreMade) {
    const auto on_argument = [](std::uint32_t number, unsigned place, std::uint32_t value) {
        return SeccompFilter{one(kLoad, kNumber),         one(kIfEqual, number, 0, 2),
                             one(kLoad, low_half(place)), one(kIfEqual, value, 1, 0),
                             one(kReturn, kAllow),        one(kReturn, kKill)};
    };
    const CallFacts whole = {.maps_stacks_whole = true, .has_guard_advice = true};
    const CallFacts old_kernel = {.maps_stacks_whole = true};
    const std::vector<SeccompFilter> install = {on_argument(SYS_madvise, 2, 102)};
    const std::vector<SeccompFilter> remove = {on_argument(SYS_madvise, 2, 103)};
    EXPECT_EQ(judge(install, {}).call, nullptr);
    EXPECT_EQ(judge(remove, {}).call, nullptr);
    EXPECT_TRUE(judge(install, whole).is_certain);
    EXPECT_FALSE(judge(install, old_kernel).is_certain);
    EXPECT_NE(judge(install, old_kernel).call, nullptr);
    EXPECT_FALSE(judge(remove, whole).is_certain);
    EXPECT_NE(judge(remove, whole).call, nullptr);
    const auto on_mmap = [](std::uint32_t protection, std::uint32_t flags) {
        return std::vector<SeccompFilter>{{one(kLoad, kNumber), one(kIfEqual, SYS_mmap, 0, 4),
                                           one(kLoad, low_half(2)), one(kIfEqual, protection, 0, 2),
                                           one(kLoad, low_half(3)),
                                           one(kIfEqual, MAP_PRIVATE | MAP_ANONYMOUS | flags, 1, 0),
                                           one(kReturn, kAllow), one(kReturn, kKill)}};
    };
    constexpr std::uint32_t kReadWrite = PROT_READ | PROT_WRITE;
    EXPECT_EQ(judge(on_mmap(kReadWrite, MAP_STACK), {}).call, nullptr);
    EXPECT_TRUE(judge(on_mmap(kReadWrite, MAP_STACK), whole).is_certain);
    EXPECT_TRUE(judge(on_mmap(PROT_NONE, MAP_STACK), {}).is_certain);
    EXPECT_FALSE(judge(on_mmap(PROT_NONE, MAP_STACK), whole).is_certain);
    const CallFacts plain = {.maps_stacks_whole = true, .maps_heaps_plainly = true};
    EXPECT_EQ(judge(on_mmap(PROT_NONE, 0), {}).call, nullptr);
    EXPECT_NE(judge(on_mmap(PROT_NONE, 0), whole).call, nullptr);
    EXPECT_FALSE(judge(on_mmap(PROT_NONE, 0), whole).is_certain);
    EXPECT_TRUE(judge(on_mmap(PROT_NONE, 0), plain).is_certain);
    // musl makes a stack so.
    const CallFacts other = {.has_other_c_library = true};
    EXPECT_NE(judge(on_mmap(PROT_NONE, 0), other).call, nullptr);
    EXPECT_FALSE(judge(on_mmap(PROT_NONE, 0), other).is_certain);
    EXPECT_FALSE(judge(on_mmap(PROT_NONE, MAP_STACK), other).is_certain);
}

TEST(NeededCalls, KnowsArgumentsThatAreConstant) {
    const auto on_both = [](std::uint32_t number, unsigned argument, std::uint32_t value) {
        return SeccompFilter{
            one(kLoad, kNumber),        one(kIfEqual, number, 0, 2), one(kLoad, low_half(argument)),
            one(kIfEqual, value, 1, 0), one(kReturn, kAllow),        one(kReturn, kKill)};
    };
    EXPECT_EQ(judge({on_both(SYS_socketpair, 0, 10)}).call, nullptr);  // AF_INET6
    const auto unix_sockets = judge({on_both(SYS_socketpair, 0, 1)});
    ASSERT_NE(unix_sockets.call, nullptr);
    EXPECT_TRUE(unix_sockets.is_certain);
    // Which memory is written where, nobody knows before.
    const auto unknown = judge({on_both(SYS_process_vm_writev, 1, 77)});
    ASSERT_NE(unknown.call, nullptr);
    EXPECT_FALSE(unknown.is_certain);
}

TEST(NeededCalls, WhatIsCertainComesFirst) {
    const auto objection =
        judge({on_call(SYS_getrusage, kKill), on_call(SYS_sched_setattr, kKill)});
    ASSERT_NE(objection.call, nullptr);
    EXPECT_STREQ(objection.call->name, "sched_setattr");
    EXPECT_TRUE(objection.is_certain);
}

TEST(NeededCalls, AJudgementIsBounded) {
    // The longest chain of questions that the kernel takes, each of them about a pointer.
    std::vector<SeccompFilter> filters;
    for (int program = 0; program < 7; ++program) {
        SeccompFilter filter;
        for (int i = 0; i < 2000; ++i) {
            filter.push_back(one(kLoad, low_half(static_cast<unsigned>(i % 6))));
            filter.push_back(one(kIfEqual, static_cast<std::uint32_t>(i), 0, 0));
        }
        filter.push_back(one(kReturn, kAllow));
        filters.push_back(filter);
    }
    const auto objection = judge_filters(filters, kFacts);
    if (!objection) {
        EXPECT_EQ(objection.error().kind, ErrorKind::kBoundExceeded);
    }
    filters = {{one(kReturn, kAllow), one(BPF_ST, 99)}, {one(BPF_ST, 99)}};
    EXPECT_EQ(judge_filters(filters, kFacts).error().kind, ErrorKind::kInvalid);
}

}  // namespace
}  // namespace echion::inject
