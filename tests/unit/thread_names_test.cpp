#include "cpython/thread_names.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "fake_objects.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

constexpr std::uintptr_t kThreadIdBase = UINTPTR_MAX / 4 * 3 + 0x701;  // several digits long
constexpr std::size_t kBudget = 64;

/// A target that goes on while it is read: `change` is called once, before the first read of `at`.
class ChangingMemory final : public MemoryReader {
  public:
    explicit ChangingMemory(test::TestMemory& memory) : memory_(memory) {}

    void change_at(Address at, std::function<void()> change) {
        at_ = at;
        change_ = std::move(change);
    }

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        for (const ReadRequest& request : requests) {
            if (change_ && at_ >= request.from && at_ - request.from < request.size_bytes) {
                std::exchange(change_, nullptr)();
            }
        }
        return memory_.read(requests);
    }

  private:
    test::TestMemory& memory_;
    Address at_;
    std::function<void()> change_;
};

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

    /// Puts another object's address into each place that holds this one's, wherever this version
    /// keeps it.
    void replace(Address old_object, Address new_object) {
        const Address end = memory_.allocate(1);
        for (std::uintptr_t at = 0x10000; at < end.value(); at += sizeof(void*)) {
            auto word = memory_.read_pointer(Address(at));
            if (word && *word == old_object) {
                memory_.write(Address(at), new_object);
            }
        }
    }

    /// Has the object at `place` be as the one at `other`, `size_bytes` of it.
    void put_in_place(Address place, Address other, std::size_t size_bytes) {
        std::vector<std::byte> copy(size_bytes);
        ASSERT_TRUE(memory_.read_bytes(other, copy.data(), size_bytes));
        ASSERT_TRUE(memory_.write_bytes(place, copy.data(), size_bytes));
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
    replace(before, make_.make_str({0x20ac}, 2, false));
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
    replace(before, make_.make_str("after"));
    names_.forget(0, id(0));
    EXPECT_EQ(names_.find(0, id(0)), "");
    scan(table, 1);
    EXPECT_EQ(names_.find(0, id(0)), "after");
}

/// The thread leaves `_active`; its key's place is given to another one's number.
TEST_P(ThreadNamesOf, ANameIsNotGivenToTheNumberThatTakesTheKeysPlace) {
    const Address key = make_.make_int(id(0));
    const Address thread = make_thread(make_.make_str("former"));
    const Address table = modules({{key, thread}});
    ChangingMemory changing(memory_);
    ObjectReader objects(changing, layout_);
    changing.change_at(key, [&] {
        replace(thread, Address());
        put_in_place(key, make_.make_int(id(1)),
                     layout_.integer.ob_digit + 5 * layout_.integer.digit_bytes);
    });
    const auto result = names_.scan(objects, 0, table, kBudget);
    ASSERT_TRUE(result.has_value());
    EXPECT_FALSE(result->is_complete);
    EXPECT_EQ(names_.find(0, id(0)), "");
    EXPECT_EQ(names_.find(0, id(1)), "");
}

/// The thread leaves `_active`; its Thread object's place is given to another one.
TEST_P(ThreadNamesOf, ANameIsNotThatOfTheThreadThatTakesTheObjectsPlace) {
    for (const bool is_known : {false, true}) {
        names_.clear();
        const Address key = make_.make_int(id(0));
        const Address name = make_.make_str("former");
        const Address thread = make_thread(name);
        const Address table = modules({{key, thread}});
        ChangingMemory changing(memory_);
        ObjectReader objects(changing, layout_);
        if (is_known) {
            scan(table);
            ASSERT_EQ(names_.find(0, id(0)), "former");
        }
        changing.change_at(key, [&] {
            replace(thread, Address());
            replace(name, make_.make_str("successor"));
        });
        ASSERT_TRUE(names_.scan(objects, 0, table, kBudget).has_value());
        EXPECT_EQ(names_.find(0, id(0)), "");
    }
}

/// Others may come and go meanwhile.
TEST_P(ThreadNamesOf, ANameIsReadWhereTheTableChangesBesideIt) {
    const Address other = make_thread(make_.make_str("other"));
    const Address thread = make_thread(make_.make_str("stays"));
    const Address key = make_.make_int(id(1));
    const Address table = modules({{make_.make_int(id(0)), other}, {key, thread}});
    ChangingMemory changing(memory_);
    ObjectReader objects(changing, layout_);
    changing.change_at(key, [&] { replace(other, Address()); });
    ASSERT_TRUE(names_.scan(objects, 0, table, kBudget).has_value());
    EXPECT_EQ(names_.find(0, id(0)), "");
    EXPECT_EQ(names_.find(0, id(1)), "stays");
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
