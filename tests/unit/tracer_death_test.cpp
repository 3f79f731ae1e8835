// A tracer that dies while it has borrowed a thread, at each stage: the thread goes on as if
// nothing had happened.

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <span>

#include "borrowed_child.h"
#include "inject/stub.h"
#include "platform/process_modules.h"

namespace echion::inject {
namespace {

using namespace test;

/// Stages at which a tracer may die.
enum class Death { kStopped, kPlaced, kInFrontOfCall, kBehindCall };

class TracerDies : public testing::TestWithParam<Death> {
  protected:
    /// Runs a tracer process that borrows the child's thread and ends at the stage.
    static void trace_and_die(Hold& hold, Death death) {
        Child tracer([&] {
            auto session = PtraceSession::seize(hold.pid);
            if (!session || !session->interrupt(soon())) {
                return 1;
            }
            const auto context = session->save_context();
            if (!context) {
                return 1;
            }
            const arch::WayBack way = hold.place_way_back(*context);
            if (death == Death::kStopped || !session->borrow(*context)) {
                _exit(kGood);
            }
            const arch::Registers call = hold.make_call(*context, way, SYS_getpid);
            if (death == Death::kBehindCall) {
                _exit(session->run_system_call(call, soon()) ? kGood : 1);
            }
            // run() without its last step, or with one step into the call.
            auto registers = call;
            ptrace(PTRACE_SETREGS, hold.pid, nullptr, &registers);
            if (death == Death::kInFrontOfCall) {
                ptrace(PTRACE_SYSCALL, hold.pid, nullptr, nullptr);
                int status = 0;
                waitpid(hold.pid, &status, __WALL);
            }
            _exit(kGood);
        });
        EXPECT_EQ(tracer.wait(), kGood);
    }
};

TEST_P(TracerDies, BlockedReadGoesOn) {
    ReadingChild child;
    Hold hold(child.pid());
    trace_and_die(hold, GetParam());
    child.await_read();
    EXPECT_EQ(child.finish(), kGood);
}

TEST_P(TracerDies, BusyThreadGoesOn) {
    ComputingChild child;
    Hold hold(child.pid());
    for (int i = 0; i < 20; ++i) {
        trace_and_die(hold, GetParam());
    }
    EXPECT_EQ(child.finish(), kGood);
}

INSTANTIATE_TEST_SUITE_P(AtEachStage, TracerDies,
                         testing::Values(Death::kStopped, Death::kPlaced, Death::kInFrontOfCall,
                                         Death::kBehindCall));

/// Whether a process has the stub's code in its memory.
bool has_stub(pid_t pid) {
    ProcessReader reader;
    EXPECT_TRUE(reader.open(pid, Address()));
    const StubCode code = stub_code();
    bool found = false;
    EXPECT_TRUE(for_each_mapped_range(pid, [&](const MappedRange& range) {
        std::byte head[64];
        found = found || (range.inode == 0 && range.executable &&
                          reader.read_bytes(range.start, head, sizeof(head)) &&
                          std::memcmp(head, code.start, sizeof(head)) == 0);
        return !found;
    }));
    return found;
}

// The tracer dies when the stub has begun: the thread makes the helper, finds nobody who puts it
// back, and does that itself; the helper finds nobody who fetches the channel, and ends, as does
// the second one where there is one.
class TracerDiesDuringTheStub : public testing::TestWithParam<bool> {};

TEST_P(TracerDiesDuringTheStub, TheThreadPutsItselfBack) {
#if defined(__SANITIZE_THREAD__)
    if (GetParam()) {
        GTEST_SKIP() << "a thread that ThreadSanitizer did not see made cannot use its allocator";
    }
#endif
    ReadingChild child;
    const auto count_threads = [&] {
        const auto info = read_process_info(child.pid());
        return info ? info->threads : 0U;
    };
    // ThreadSanitizer has a thread of its own in every process.
    const auto usual_threads = count_threads();
    Hold hold(child.pid());
    StubParameters parameters{};
    const auto place = [&](std::uintptr_t StubParameters::*member, const char* name) {
        const auto function = hold.code.find_libc_function(hold.reader, name);
        ASSERT_TRUE(function) << name;
        parameters.*member = function->value();
    };
    place(&StubParameters::attributes_init, "pthread_attr_init");
    place(&StubParameters::attributes_stack, "pthread_attr_setstacksize");
    place(&StubParameters::attributes_detached, "pthread_attr_setdetachstate");
    place(&StubParameters::create_thread, "pthread_create");
    place(&StubParameters::errno_location, "__errno_location");
    place(&StubParameters::unmap, "munmap");
    place(&StubParameters::join_thread, "pthread_join");
    parameters.helper_stack_bytes = 1U << 18;
    parameters.wants_own_table = GetParam() ? 1 : 0;

    Address region;
    Child tracer([&] {
        auto session = PtraceSession::seize(hold.pid);
        if (!session || !session->interrupt(soon())) {
            return 1;
        }
        const auto context = session->save_context();
        if (!context || !session->borrow(*context)) {
            return 1;
        }
        const arch::WayBack way = hold.place_way_back(*context);
        const std::uintptr_t arguments[] = {
            0, kRegionBytes, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, ~0UL, 0};
        const auto mapped = session->run_system_call(
            arch::make_system_call(context->registers, hold.code.system_call_and_return(),
                                   way.entry, SYS_mmap, arguments),
            soon());
        if (!mapped || *mapped < 0) {
            return 1;
        }
        region = Address(static_cast<std::uintptr_t>(*mapped));
        const StubCode code = stub_code();
        const Address data = region + kStubCodeBytes;
        parameters.region = region.value();
        parameters.helper = region.value() + code.helper_offset;
        parameters.way_back = way.entry.value();
        parameters.system_call_and_return = hold.code.system_call_and_return().value();
        const bool is_placed =
            session->write_memory(hold.memory, region, {code.start, code.size_bytes}) &&
            session->write_memory(hold.memory, data, std::as_bytes(std::span(&parameters, 1))) &&
            session->run(arch::make_stub_call(context->registers, region + code.start_offset,
                                              region + kRegionBytes, data,
                                              kRegionBytes - kStubCodeBytes, way.entry));
        _exit(is_placed ? kGood : 1);
    });
    ASSERT_EQ(tracer.wait(), kGood);
    const std::int64_t patience_ns = monotonic_ns() + 60 * kNanosPerSecond;
    while (count_threads() <= usual_threads) {
        ASSERT_LT(monotonic_ns(), patience_ns) << "the helper does not begin";
        sched_yield();
    }
    child.await_read();  // it is back where it was
    const auto info = read_process_info(child.pid());
    ASSERT_TRUE(info);
    EXPECT_EQ(info->blocked_signals, 0U);
    while (count_threads() > usual_threads) {  // the helper's patience: 5 s
        ASSERT_LT(monotonic_ns(), patience_ns) << "the helper does not end";
        sched_yield();
    }
    EXPECT_FALSE(has_stub(child.pid())) << "the region is still mapped";
    EXPECT_EQ(child.finish(), kGood);
}

INSTANTIATE_TEST_SUITE_P(WithOneHelperOrTwo, TracerDiesDuringTheStub, testing::Bool());

}  // namespace
}  // namespace echion::inject
