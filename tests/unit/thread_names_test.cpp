#include "cpython/thread_names.h"

#include <gtest/gtest.h>

#include <string>

#include "fake_objects.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

constexpr std::uintptr_t kThreadIdBase = UINTPTR_MAX / 4 * 3 + 0x701;  // several digits long
constexpr std::size_t kBudget = 64;

/// A process with a `threading` module, for the layout of every version.
class ThreadNamesOf : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        auto made = ThreadNames::make();
        ASSERT_TRUE(made.has_value());
        names_ = std::move(*made);
        keys_ = make_.make_keys(
            {{make_.make_str("_target"), Address()}, {make_.make_str("_name"), Address()}}, true,
            true);
        type_ = make_.make_class(keys_);
    }

    static std::uintptr_t id(std::size_t number) { return kThreadIdBase + 0x1000 * number; }

    Address make_thread(Address name) {
        return make_.make_instance(type_, keys_, {Address(), name});
    }

    /// Sets what _active holds, and returns sys.modules.
    Address modules(const test::FakeObjects::Items& active) {
        const Address globals =
            make_.make_dict({{make_.make_str("_active"), make_.make_dict(active, false)}});
        return make_.make_dict({{make_.make_str("threading"), make_.make_module(globals)}});
    }

    test::FakeObjects::Items make_threads(std::size_t count) {
        test::FakeObjects::Items active;
        for (std::size_t i = 0; i < count; ++i) {
            active.emplace_back(make_.make_int(id(i)),
                                make_thread(make_.make_str("worker-" + std::to_string(i))));
        }
        return active;
    }

    ThreadNames::Scan scan(Address modules, std::size_t budget = kBudget) {
        auto result = names_.scan(objects_, 0, modules, budget);
        EXPECT_TRUE(result.has_value()) << result.error().what;
        return result.value_or(ThreadNames::Scan{});
    }

    /// Puts another str into the place of the thread's name.
    void rename(Address thread, Address old_name, Address new_name) {
        // Wherever this version keeps it: the only word around that holds the old name.
        for (std::uintptr_t at = 0x10000; at < thread.value() + 0x1000; at += sizeof(void*)) {
            auto word = memory_.read_pointer(Address(at));
            if (word && *word == old_name) {
                memory_.write(Address(at), new_name);
            }
        }
    }

    const Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    test::FakeObjects make_{memory_, layout_};
    ObjectReader objects_{memory_, layout_};
    ThreadNames names_;
    Address keys_, type_;
};

TEST_P(ThreadNamesOf, NamesOfThreadsThatWereThereBefore) {
    const Address table = modules(make_threads(3));
    const ThreadNames::Scan first = scan(table);
    EXPECT_EQ(first.threads, 3U);
    EXPECT_EQ(first.read, 3U);
    EXPECT_TRUE(first.is_complete);
    EXPECT_EQ(names_.find(0, id(0)), "worker-0");
    EXPECT_EQ(names_.find(0, id(2)), "worker-2");
    EXPECT_EQ(names_.find(0, id(3)), "");
    EXPECT_EQ(names_.find(1, id(0)), "");
}

TEST_P(ThreadNamesOf, ABudgetIsKeptAndTheNextScanGoesOn) {
    const Address table = modules(make_threads(100));
    EXPECT_EQ(scan(table, 40).read, 40U);
    EXPECT_EQ(names_.size(), 40U);
    EXPECT_EQ(scan(table, 40).read, 40U);
    EXPECT_EQ(names_.size(), 80U);
    const ThreadNames::Scan last = scan(table, 40);
    EXPECT_TRUE(last.is_complete);
    EXPECT_EQ(last.read, 40U);  // 20 new ones, 20 of the known again
    EXPECT_EQ(names_.size(), 100U);
    EXPECT_EQ(names_.find(0, id(99)), "worker-99");
}

TEST_P(ThreadNamesOf, KnownThreadsCostNoReadsBeyondTheTable) {
    const Address table = modules(make_threads(100));
    scan(table, 1000);
    const std::size_t calls = memory_.calls;
    EXPECT_EQ(scan(table, 0).threads, 100U);
    EXPECT_LE(memory_.calls - calls, 24U);
    EXPECT_EQ(names_.find(0, id(99)), "worker-99");
}

TEST_P(ThreadNamesOf, ARenameIsSeenWithinATurn) {
    const Address before = make_.make_str("before");
    const Address thread = make_thread(before);
    test::FakeObjects::Items active = make_threads(20);
    active.emplace_back(make_.make_int(id(50)), thread);
    const Address table = modules(active);
    scan(table);
    ASSERT_EQ(names_.find(0, id(50)), "before");
    rename(thread, before, make_.make_str({0x20ac}, 2, false));
    for (int i = 0; i < 3; ++i) {
        scan(table, 8);
    }
    EXPECT_EQ(names_.find(0, id(50)), "\xe2\x82\xac");
}

TEST_P(ThreadNamesOf, ThreadsThatAreGoneAreForgotten) {
    test::FakeObjects::Items active = make_threads(10);
    scan(modules(active));
    active.erase(active.begin() + 3);
    active[5] = {};  // a hole
    scan(modules(active));
    EXPECT_EQ(names_.size(), 8U);
    EXPECT_EQ(names_.find(0, id(3)), "");
    EXPECT_EQ(names_.find(0, id(9)), "worker-9");
}

TEST_P(ThreadNamesOf, AnotherThreadUnderTheSameNumberHasItsOwnName) {
    test::FakeObjects::Items active = make_threads(2);
    scan(modules(active));
    active[1].second = make_thread(make_.make_str("successor"));
    scan(modules(active));
    EXPECT_EQ(names_.find(0, id(1)), "successor");
    EXPECT_EQ(names_.size(), 2U);
}

TEST_P(ThreadNamesOf, AForgottenNameIsReadAnewEvenWhenNothingElseIs) {
    const Address before = make_.make_str("before");
    const Address thread = make_thread(before);
    const Address table = modules({{make_.make_int(id(0)), thread}});
    scan(table);
    // The same number, the same objects' addresses, another thread.
    rename(thread, before, make_.make_str("after"));
    names_.forget(0, id(0));
    EXPECT_EQ(names_.find(0, id(0)), "");
    scan(table, 1);
    EXPECT_EQ(names_.find(0, id(0)), "after");
}

TEST_P(ThreadNamesOf, InterpretersHaveTheirOwnNames) {
    const Address main = modules({{make_.make_int(id(0)), make_thread(make_.make_str("main"))}});
    const Address sub = modules({{make_.make_int(id(0)), make_thread(make_.make_str("sub"))}});
    ASSERT_TRUE(names_.scan(objects_, 0, main, kBudget).has_value());
    ASSERT_TRUE(names_.scan(objects_, 1, sub, kBudget).has_value());
    EXPECT_EQ(names_.find(0, id(0)), "main");
    EXPECT_EQ(names_.find(1, id(0)), "sub");
    names_.forget_interpreter(1);
    EXPECT_EQ(names_.find(0, id(0)), "main");
    EXPECT_EQ(names_.find(1, id(0)), "");
}

TEST_P(ThreadNamesOf, TooManyThreadsAreCounted) {
    test::FakeObjects::Items active = make_threads(ThreadNames::kMaxThreads + 5);
    scan(modules(active), 100000);
    EXPECT_EQ(names_.size(), ThreadNames::kMaxThreads);
    EXPECT_EQ(names_.overflows(), 5U);
    names_.clear();
    EXPECT_EQ(names_.size(), 0U);
    EXPECT_EQ(names_.find(0, id(0)), "");
}

TEST_P(ThreadNamesOf, AProcessWithoutThreadingHasNoNames) {
    const ThreadNames::Scan result = scan(make_.make_dict({}));
    EXPECT_EQ(result.threads, 0U);
    EXPECT_TRUE(result.is_complete);
}

TEST_P(ThreadNamesOf, NonsenseIsLeftOut) {
    test::FakeObjects::Items active = make_threads(2);
    active.emplace_back(make_.make_str("no number"), make_thread(make_.make_str("x")));
    active.emplace_back(make_.make_int(id(5)), make_.make_int(5));             // no Thread
    active.emplace_back(make_.make_int(id(6)), make_thread(Address(0x9990)));  // wild name
    active.emplace_back(Address(0x3), Address(0x5));
    active.emplace_back(Address(0x99990), Address(0x99990));
    const ThreadNames::Scan result = scan(modules(active));
    EXPECT_FALSE(result.is_complete);
    EXPECT_EQ(names_.find(0, id(1)), "worker-1");
    EXPECT_EQ(names_.find(0, id(5)), "");
    EXPECT_EQ(names_.find(0, id(6)), "");
}

TEST_P(ThreadNamesOf, ATableThatCannotBeReadKeepsTheNames) {
    scan(modules(make_threads(2)));
    EXPECT_FALSE(names_.scan(objects_, 0, Address(0x123450), kBudget).has_value());
    EXPECT_FALSE(names_.scan(objects_, 0, Address(), kBudget).has_value());
    EXPECT_EQ(names_.find(0, id(1)), "worker-1");
}

TEST_P(ThreadNamesOf, ALongNameIsCut) {
    scan(modules({{make_.make_int(id(0)), make_thread(make_.make_str(std::string(500, 'n')))}}));
    EXPECT_EQ(names_.find(0, id(0)), std::string(ThreadNames::kMaxNameBytes, 'n'));
}

INSTANTIATE_TEST_SUITE_P(Versions, ThreadNamesOf, testing::Range(8, 16), test::name_of_row);
INSTANTIATE_TEST_SUITE_P(FreeThreaded, ThreadNamesOf, testing::Values(113, 114, 115),
                         test::name_of_row);

}  // namespace
}  // namespace echion::cpython
