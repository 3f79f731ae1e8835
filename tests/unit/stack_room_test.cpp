// Where the way back of a borrowed thread may be written: below the stack pointer only where that
// is free.

#include "inject/stack_room.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace echion::inject {
namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kNeeded = 3000;

/// Memory with a page in front and one behind that nobody may touch.
class Stack {
  public:
    explicit Stack(std::size_t pages) : size_((pages + 2) * kPageBytes) {
        void* memory = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT_NE(memory, MAP_FAILED);
        start_ = reinterpret_cast<std::uintptr_t>(memory);
        EXPECT_EQ(mprotect(at(0), pages * kPageBytes, PROT_READ | PROT_WRITE), 0);
    }
    ~Stack() { munmap(reinterpret_cast<void*>(start_), size_); }
    Stack(const Stack&) = delete;
    Stack& operator=(const Stack&) = delete;

    [[nodiscard]] std::uintptr_t address(std::size_t offset) const {
        return start_ + kPageBytes + offset;
    }

  private:
    [[nodiscard]] void* at(std::size_t offset) const {
        return reinterpret_cast<void*>(address(offset));
    }
    std::size_t size_;
    std::uintptr_t start_ = 0;
};

class StackRoom : public testing::Test {
  protected:
    Status check(std::size_t stack_offset, const StackBounds& bounds = {}) {
        arch::Registers registers{};
        registers.rsp = stack_.address(stack_offset);
        registers.fs_base = thread_;
        return check_stack_room(map_, registers, bounds, kNeeded);
    }

    Stack stack_{4};
    std::uintptr_t thread_ = stack_.address(4 * kPageBytes - 64);
    MapLookup map_ = std::move(*MapLookup::open(getpid()));
};

TEST_F(StackRoom, IsThereInAThreadsOwnStack) {
    EXPECT_TRUE(check(2 * kPageBytes));
    EXPECT_TRUE(check(kNeeded));
}

TEST_F(StackRoom, IsNotThereAtTheGuardPage) {
    EXPECT_FALSE(check(kNeeded - 1));
    EXPECT_FALSE(check(0));
}

TEST_F(StackRoom, IsNotThereInAStackOfSomebodyElse) {
    const Stack other(4);
    thread_ = other.address(4 * kPageBytes - 64);
    EXPECT_FALSE(check(2 * kPageBytes)) << "a coroutine's";
    thread_ = stack_.address(kPageBytes);
    EXPECT_FALSE(check(2 * kPageBytes)) << "above the thread's own data";
    thread_ = 0;
    EXPECT_FALSE(check(2 * kPageBytes)) << "a thread that the C library does not know";
}

TEST_F(StackRoom, IsThereInTheFirstThreadsStack) {
    StackBounds bounds;
    bounds.is_main_thread = true;
    bounds.in_main_stack = Address(stack_.address(4 * kPageBytes - 8));
    thread_ = 0;
    EXPECT_TRUE(check(2 * kPageBytes, bounds));
    bounds.in_main_stack = Address(1);
    EXPECT_FALSE(check(2 * kPageBytes, bounds));
}

TEST_F(StackRoom, IsBoundedByAnAlternateStack) {
    StackBounds bounds;
    // In the middle of the thread's own stack, as programs may place it.
    bounds.alternate_stacks = {{Address(stack_.address(kPageBytes)), 2 * kPageBytes}};
    EXPECT_TRUE(check(kPageBytes + kNeeded, bounds));
    EXPECT_FALSE(check(kPageBytes + kNeeded - 1, bounds));
    EXPECT_TRUE(check(kPageBytes - 1, bounds)) << "below it the handler is not on it";
}

TEST(MapLookup, TellsWhatIsMapped) {
    const Stack stack(1);
    auto opened = MapLookup::open(getpid());
    ASSERT_TRUE(opened);
    MapLookup& map = *opened;
    const auto found = map.find(Address(stack.address(100)));
    ASSERT_TRUE(found);
    EXPECT_EQ(found->start.value(), stack.address(0));
    EXPECT_EQ(found->end.value(), stack.address(kPageBytes));
    EXPECT_TRUE(found->is_writable);
    EXPECT_FALSE(found->is_executable);
    EXPECT_FALSE(found->is_file);
    const auto code = map.find(Address(reinterpret_cast<std::uintptr_t>(&mprotect)));
    ASSERT_TRUE(code);
    EXPECT_TRUE(code->is_file);
    EXPECT_TRUE(code->is_executable);
    EXPECT_FALSE(map.find(Address(16)));
}

}  // namespace
}  // namespace echion::inject
