#include "cpython/asyncio.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "cpython/containers.h"
#include "cpython/coroutines.h"
#include "cpython/type_kinds.h"
#include "fake_asyncio.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

using Addresses = std::vector<Address>;
using Stop = test::FakeAsyncio::Stop;
using State = CoroutineState;

constexpr Address kOne(0x1110);
constexpr Address kTwo(0x2220);
constexpr Address kThree(0x3330);

/// Every test runs for the layout of every version.
class AsyncioOf : public testing::TestWithParam<int> {
  protected:
    const Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    test::FakeAsyncio make_{memory_, layout_};
    ObjectReader objects_{memory_, layout_};
};

class Containers : public AsyncioOf {
  protected:
    /// What is visited, and the outcome of it.
    Addresses visit(Address set, std::size_t max_slots = 1024) {
        Addresses visited;
        outcome_ = visit_set(objects_, set, max_slots, [&](Address key) {
            visited.push_back(key);
            return true;
        });
        return visited;
    }
    ErrorKind error_of(Address set) {
        EXPECT_EQ(visit(set), Addresses{});
        EXPECT_FALSE(outcome_.has_value());
        return outcome_ ? ErrorKind::kSystem : outcome_.error().kind;
    }

    Status outcome_;
};

TEST_P(Containers, ASetIsVisitedSlotBySlot) {
    EXPECT_EQ(visit(make_.make_set({kOne, {}, kTwo, {}, {}, {}, {}, kThree})),
              (Addresses{kOne, kTwo, kThree}));
    EXPECT_TRUE(outcome_.has_value());
    EXPECT_EQ(visit(make_.make_set({})), Addresses{});
    EXPECT_TRUE(outcome_.has_value());
}

TEST_P(Containers, AVisitOfASetEndsWhenItIsToldTo) {
    const Address set = make_.make_set({kOne, kTwo, kThree});
    std::size_t visits = 0;
    const Status status = visit_set(objects_, set, 1024, [&](Address) { return ++visits < 2; });
    EXPECT_TRUE(status.has_value());
    EXPECT_EQ(visits, 2U);
}

TEST_P(Containers, NoMoreSlotsOfASetAreVisitedThanTheBound) {
    Addresses keys(600);
    for (std::size_t i = 0; i < keys.size(); ++i) {
        keys[i] = Address(0x10000 + 16 * i);
    }
    const Address set = make_.make_set(keys);  // of 1024 slots
    EXPECT_EQ(visit(set, 1024), keys);
    EXPECT_TRUE(outcome_.has_value());
    for (const std::size_t bound : {1U, 255U, 256U, 300U}) {
        EXPECT_EQ(visit(set, bound), Addresses(keys.begin(), keys.begin() + bound));
        ASSERT_FALSE(outcome_.has_value());
        EXPECT_EQ(outcome_.error().kind, ErrorKind::kBoundExceeded);
    }
}

TEST_P(Containers, AVisitOfASetGoesOnWhereItStopped) {
    Addresses keys(600);
    for (std::size_t i = 0; i < keys.size(); i += 2) {
        keys[i] = Address(0x10000 + 16 * i);
    }
    const Address set = make_.make_set(keys);
    std::erase(keys, Address());
    for (const std::size_t at_once : {1U, 7U, 128U, 300U, 301U}) {
        Addresses visited;
        SetCursor cursor;
        for (std::size_t last = SIZE_MAX; last != visited.size();) {
            last = visited.size();
            const Status status = visit_set(objects_, set, 1024, cursor, [&](Address key) {
                visited.push_back(key);
                return visited.size() < last + at_once;
            });
            ASSERT_TRUE(status.has_value());
        }
        EXPECT_EQ(visited, keys) << at_once;
    }
}

TEST_P(Containers, AVisitOfASetBeginsAnewWhenItHasGotAnotherTable) {
    const Address set = make_.make_set({kOne, kTwo});
    SetCursor cursor;
    ASSERT_TRUE(visit_set(objects_, set, 1024, cursor, [](Address key) {
                    return key != kOne;
                }).has_value());
    const Address larger = make_.make_set({{}, kTwo, kThree, {}, {}, {}, {}, {}, kOne});
    const SetLayout& fields = layout_.set;
    const auto table = memory_.read_pointer(larger + at(fields.table));
    ASSERT_TRUE(table.has_value());
    memory_.write(set + at(fields.table), *table);
    memory_.write(set + at(fields.mask), std::intptr_t{15});
    Addresses visited;
    ASSERT_TRUE(visit_set(objects_, set, 1024, cursor, [&](Address key) {
                    visited.push_back(key);
                    return true;
                }).has_value());
    EXPECT_EQ(visited, (Addresses{kTwo, kThree, kOne}));
}

TEST_P(Containers, AVisitOfASetIsOverWhenItsTableEndsInFrontOfTheCursor) {
    const Address set = make_.make_set({kOne, kTwo, kThree});
    SetCursor cursor;
    ASSERT_TRUE(visit_set(objects_, set, 1024, cursor, [](Address key) {
                    return key != kThree;
                }).has_value());
    memory_.write(set + at(layout_.set.mask), std::intptr_t{1});
    std::size_t visits = 0;
    EXPECT_TRUE(visit_set(objects_, set, 1024, cursor, [&](Address) {
                    ++visits;
                    return true;
                }).has_value());
    EXPECT_EQ(visits, 0U);
}

TEST_P(Containers, ASetWithAHostileHeadIsRefused) {
    const Address set = make_.make_set({kOne});
    const SetLayout& fields = layout_.set;
    for (const std::intptr_t mask : {std::intptr_t{-1}, std::intptr_t{6}, INTPTR_MAX,
                                     std::intptr_t{INTPTR_MAX / 2}, INTPTR_MIN}) {
        memory_.write(set + at(fields.mask), mask);
        EXPECT_EQ(error_of(set), ErrorKind::kInvalid) << mask;
    }
    memory_.write(set + at(fields.mask), std::intptr_t{7});
    for (const Address table : {Address(), Address(0x10001)}) {
        memory_.write(set + at(fields.table), table);
        EXPECT_EQ(error_of(set), ErrorKind::kInvalid);
    }
    memory_.write(set + at(fields.table), Address(0x66660000));
    EXPECT_EQ(error_of(set), ErrorKind::kUnreadable);
    EXPECT_EQ(error_of(Address(0x66660000)), ErrorKind::kUnreadable);
}

TEST_P(Containers, TuplesAndListsGiveWhatFits) {
    const Addresses items{kOne, kTwo, kThree};
    for (const bool is_list : {false, true}) {
        const auto read = is_list ? read_list : read_tuple;
        const Address sequence = is_list ? make_.make_list(items) : make_.make_tuple(items);
        std::array<Address, 4> all{};
        const auto count = read(objects_, sequence, all);
        ASSERT_TRUE(count.has_value());
        EXPECT_EQ(*count, 3U);
        EXPECT_EQ(Addresses(all.begin(), all.end()), (Addresses{kOne, kTwo, kThree, {}}));
        std::array<Address, 2> some{};
        EXPECT_EQ(read(objects_, sequence, some), 3U);
        EXPECT_EQ(Addresses(some.begin(), some.end()), (Addresses{kOne, kTwo}));
        for (const std::intptr_t length : {std::intptr_t{-1}, INTPTR_MAX, INTPTR_MIN}) {
            memory_.write(sequence + at(layout_.object.ob_size), length);
            const auto refused = read(objects_, sequence, all);
            ASSERT_FALSE(refused.has_value());
            EXPECT_EQ(refused.error().kind, ErrorKind::kInvalid);
        }
        memory_.write(sequence + at(layout_.object.ob_size), std::intptr_t{100});
        std::array<Address, 100> room{};
        EXPECT_FALSE(read(objects_, sequence, room).has_value());
    }
}

class Kinds : public AsyncioOf {
  protected:
    TypeKind of_type(Address type) { return kinds_.find_of_type(objects_, type); }

    TypeKinds kinds_;
};

TEST_P(Kinds, ATypeIsKnownByItsName) {
    EXPECT_EQ(of_type(make_.type("coroutine")), TypeKind::kCoroutine);
    EXPECT_EQ(of_type(make_.type("async_generator_asend")), TypeKind::kDriver);
    EXPECT_EQ(of_type(make_.type("functools.partial")), TypeKind::kPartial);
    EXPECT_EQ(of_type(make_.task_type()), TypeKind::kTask);
    EXPECT_EQ(of_type(make_.future_type()), TypeKind::kFuture);
    EXPECT_EQ(of_type(make_.type("tuple")), TypeKind::kOther);
    EXPECT_EQ(kinds_.find(objects_, make_.make_future()), TypeKind::kFuture);
    EXPECT_EQ(kinds_.find(objects_, make_.make_weak_set({})), TypeKind::kWeakSet);
}

TEST_P(Kinds, AClassIsOfTheKindOfWhatItIsMadeOf) {
    const Address task = make_.type("Task", layout_.task.size + 16, make_.task_type());
    EXPECT_EQ(of_type(make_.type("app.MyTask", layout_.task.size + 32, task)), TypeKind::kTask);
    EXPECT_EQ(of_type(make_.type("Bag", 300, make_.type("set"))), TypeKind::kSet);
}

TEST_P(Kinds, AClassCannotPassItselfOffAsABuiltInType) {
    const Address base = make_.type("object");
    for (const char* name : {"coroutine", "list", "set", "function"}) {
        EXPECT_EQ(of_type(make_.objects().make_type(kTypeHeap)), TypeKind::kOther);
        const Address type = make_.objects().make_type(kTypeHeap);
        make_.name_type(type, name);
        memory_.write(type + at(layout_.type.tp_base), base);
        EXPECT_EQ(of_type(type), TypeKind::kOther) << name;
    }
}

TEST_P(Kinds, AnotherModulesTaskIsNone) {
    const Address type = make_.objects().make_type(0, layout_.task.size + 8);
    make_.name_type(type, "_asyncio.Task");
    EXPECT_EQ(of_type(type), TypeKind::kOther);
}

TEST_P(Kinds, ANameMayLieOnTwoPagesOrEndWithOne) {
    const Address pages(0x700000);
    memory_.map(pages, 4096);
    memory_.map(pages + 4096, 4096);
    const Address type = make_.objects().make_type(0);
    constexpr std::string_view kName = "async_generator";
    for (const std::size_t in_first : {std::size_t{1}, std::size_t{8}, kName.size()}) {
        memory_.write_bytes(pages + 4096 - in_first, kName.data(), in_first);
        memory_.write_bytes(pages + 4096, kName.data() + in_first, kName.size() - in_first);
        memory_.write(pages + 4096 + (kName.size() - in_first), '\0');
        memory_.write(type + at(layout_.type.tp_name), pages + 4096 - in_first);
        kinds_.forget();
        EXPECT_EQ(of_type(type), TypeKind::kAsyncGenerator) << in_first;
    }
    memory_.write_bytes(pages + 4096 - 5, "list", 5);
    memory_.unmap(pages + 4096);
    memory_.write(type + at(layout_.type.tp_name), pages + 4096 - 5);
    kinds_.forget();
    EXPECT_EQ(of_type(type), TypeKind::kList);
}

TEST_P(Kinds, ARingOfBasesEnds) {
    const Address one = make_.objects().make_type(kTypeHeap);
    const Address other = make_.objects().make_type(kTypeHeap);
    memory_.write(one + at(layout_.type.tp_base), other);
    memory_.write(other + at(layout_.type.tp_base), one);
    EXPECT_EQ(of_type(one), TypeKind::kOther);
    EXPECT_LT(memory_.calls, 100U);
}

TEST_P(Kinds, AKindIsRememberedUntilItIsForgotten) {
    const Address type = make_.type("list");
    ASSERT_EQ(of_type(type), TypeKind::kList);
    make_.name_type(type, "set");
    const std::size_t calls = memory_.calls;
    EXPECT_EQ(of_type(type), TypeKind::kList);
    EXPECT_EQ(memory_.calls, calls);
    kinds_.forget();
    EXPECT_EQ(of_type(type), TypeKind::kSet);
}

TEST_P(Kinds, WhatCannotBeReadIsOfNoKind) {
    EXPECT_EQ(of_type(Address()), TypeKind::kOther);
    EXPECT_EQ(of_type(Address(0x66660000)), TypeKind::kOther);
    EXPECT_EQ(kinds_.find(objects_, Address(0x11111)), TypeKind::kOther);
    EXPECT_EQ(kinds_.find(objects_, Address(0x66660000)), TypeKind::kOther);
    const Address type = make_.objects().make_type(0);
    memory_.write(type + at(layout_.type.tp_name), Address(0x66660001));
    EXPECT_EQ(of_type(type), TypeKind::kOther);
}

class Coroutines : public AsyncioOf {
  protected:
    CoroutineChain follow(Address coroutine) {
        frames_ = std::vector<RawFrame>(room_);
        const CoroutineChain chain = follow_coroutines(objects_, kinds_, coroutine, frames_);
        frames_.resize(chain.count);
        return chain;
    }
    static RawFrame frame_of(const test::FakeAsyncio::Coroutine& coroutine) {
        return {coroutine.code, test::FakeAsyncio::kOffset};
    }
    Address place_of_awaited(const test::FakeAsyncio::Coroutine& coroutine) {
        const std::size_t values_at = has(layout_.frame.localsplus)
                                          ? at(layout_.frame.localsplus)
                                          : (at(layout_.frame.size) + 64) / 8 * 8;
        return coroutine.place + values_at + sizeof(void*);  // behind one variable
    }

    TypeKinds kinds_;
    std::size_t room_ = 16;
    std::vector<RawFrame> frames_;
};

TEST_P(Coroutines, AChainIsFollowedToWhatTheInnermostOneWaitsFor) {
    const Address iterator = make_.make_future_iterator(make_.make_future());
    const auto innermost = make_.make_coroutine(State::kSuspended, iterator);
    const auto generator =
        make_.make_coroutine(State::kSuspended, innermost.object, Stop::kYieldFrom, "generator");
    const auto outermost = make_.make_coroutine(State::kSuspended, generator.object);
    const CoroutineChain chain = follow(outermost.object);
    EXPECT_EQ(chain.state, State::kSuspended);
    EXPECT_EQ(chain.place, outermost.place);
    EXPECT_EQ(chain.end, iterator);
    EXPECT_FALSE(chain.truncated);
    EXPECT_FALSE(chain.broken);
    EXPECT_EQ(frames_, (std::vector<RawFrame>{frame_of(outermost), frame_of(generator),
                                              frame_of(innermost)}));
}

TEST_P(Coroutines, DriversInBetweenGiveNoFrame) {
    const auto inner = make_.make_coroutine(State::kSuspended, make_.none);
    const auto async_generator = make_.make_coroutine(
        State::kSuspended, make_.make_driver(inner.object), Stop::kAwait, "async_generator");
    const Address asend = make_.make_driver(async_generator.object, "async_generator_asend");
    const auto outer =
        make_.make_coroutine(State::kSuspended, make_.make_driver(asend, "anext_awaitable"));
    const CoroutineChain chain = follow(outer.object);
    EXPECT_EQ(chain.end, make_.none);
    EXPECT_FALSE(chain.broken);
    EXPECT_EQ(frames_,
              (std::vector<RawFrame>{frame_of(outer), frame_of(async_generator), frame_of(inner)}));
}

TEST_P(Coroutines, OneThatYieldsWaitsForNothing) {
    const auto inner = make_.make_coroutine(State::kSuspended);
    const auto yields = make_.make_coroutine(State::kSuspended, inner.object, Stop::kYield);
    const CoroutineChain chain = follow(yields.object);
    EXPECT_EQ(chain.state, State::kSuspended);
    EXPECT_TRUE(chain.end.is_null());
    EXPECT_FALSE(chain.broken);
    EXPECT_EQ(frames_, std::vector<RawFrame>{frame_of(yields)});
}

TEST_P(Coroutines, OneThatHasNotBegunHasAFrame) {
    const auto created = make_.make_coroutine(State::kCreated, make_.none);
    const CoroutineChain chain = follow(created.object);
    EXPECT_EQ(chain.state, State::kCreated);
    EXPECT_EQ(chain.place, created.place);
    EXPECT_TRUE(chain.end.is_null());
    ASSERT_EQ(frames_.size(), 1U);
    EXPECT_EQ(frames_[0].code, created.code);
}

TEST_P(Coroutines, OfOneThatIsExecutedThePlaceIsKnown) {
    const auto executing = make_.make_coroutine(State::kExecuting, make_.none);
    const CoroutineChain chain = follow(executing.object);
    EXPECT_EQ(chain.state, State::kExecuting);
    EXPECT_EQ(chain.place, executing.place);
    EXPECT_EQ(chain.count, 0U);
    EXPECT_FALSE(chain.broken);
}

TEST_P(Coroutines, OneThatHasEndedWaitsForNothing) {
    const auto finished = make_.make_coroutine(State::kFinished);
    const CoroutineChain chain = follow(finished.object);
    EXPECT_EQ(chain.state, State::kFinished);
    EXPECT_EQ(chain.place, layout_.generator.frame_is_inside ? finished.place : Address());
    EXPECT_TRUE(chain.end.is_null());
    EXPECT_EQ(chain.count, 0U);
    EXPECT_FALSE(chain.broken);
}

TEST_P(Coroutines, WhatIsExecutedBelowASuspendedOneIsAContradiction) {
    for (const State state : {State::kExecuting, State::kFinished}) {
        const auto inner = make_.make_coroutine(state);
        const auto outer = make_.make_coroutine(State::kSuspended, inner.object);
        const CoroutineChain chain = follow(outer.object);
        EXPECT_TRUE(chain.broken);
        EXPECT_EQ(chain.state, State::kSuspended);
        EXPECT_EQ(frames_, std::vector<RawFrame>{frame_of(outer)});
    }
}

TEST_P(Coroutines, ARingIsCut) {
    const auto one = make_.make_coroutine(State::kSuspended, make_.none);
    const auto other = make_.make_coroutine(State::kSuspended, one.object);
    memory_.write(place_of_awaited(one), other.object);
    const CoroutineChain chain = follow(one.object);
    EXPECT_TRUE(chain.truncated);
    EXPECT_EQ(chain.count, room_);
}

TEST_P(Coroutines, ARingOfDriversIsCut) {
    const Address driver = make_.make_driver(make_.none);
    memory_.write(driver + at(layout_.object.size), driver);
    const auto outer = make_.make_coroutine(State::kSuspended, driver);
    const CoroutineChain chain = follow(outer.object);
    EXPECT_TRUE(chain.truncated);
    EXPECT_EQ(frames_, std::vector<RawFrame>{frame_of(outer)});
    EXPECT_LT(memory_.calls, 300U);
}

TEST_P(Coroutines, AChainThatHasNoRoomIsCut) {
    test::FakeAsyncio::Coroutine coroutine = make_.make_coroutine(State::kSuspended, make_.none);
    for (std::size_t i = 1; i < room_; ++i) {
        coroutine = make_.make_coroutine(State::kSuspended, coroutine.object);
    }
    EXPECT_FALSE(follow(coroutine.object).truncated);
    EXPECT_EQ(frames_.size(), room_);
    coroutine = make_.make_coroutine(State::kSuspended, coroutine.object);
    EXPECT_TRUE(follow(coroutine.object).truncated);
    ASSERT_EQ(frames_.size(), room_);
    EXPECT_EQ(frames_[0], frame_of(coroutine));
}

TEST_P(Coroutines, WhatCannotBeFollowedIsBroken) {
    const auto outer = make_.make_coroutine(State::kSuspended, make_.none);
    memory_.write(place_of_awaited(outer), Address(0x66666664));  // no object's address
    EXPECT_TRUE(follow(outer.object).broken);
    memory_.write(place_of_awaited(outer), Address());
    EXPECT_TRUE(follow(outer.object).broken);
    memory_.write(place_of_awaited(outer), make_.make_driver(Address()));
    EXPECT_TRUE(follow(outer.object).broken);
    EXPECT_EQ(frames_, std::vector<RawFrame>{frame_of(outer)});
    // No kind can be told: it is taken for the end.
    memory_.write(place_of_awaited(outer), Address(0x66660000));
    const CoroutineChain chain = follow(outer.object);
    EXPECT_FALSE(chain.broken);
    EXPECT_EQ(chain.end, Address(0x66660000));
}

TEST_P(Coroutines, AStackTopThatMakesNoSenseIsNotFollowed) {
    const FrameLayout& fields = layout_.frame;
    const auto outer = make_.make_coroutine(State::kSuspended, make_.none);
    for (const std::intptr_t top :
         {INTPTR_MIN, INTPTR_MAX, std::intptr_t{0x7fffffff}, std::intptr_t{-8}, std::intptr_t{1}}) {
        if (fields.stacktop_kind == StackTopKind::kPointer) {
            memory_.write(outer.place + at(fields.stacktop), top);
        } else {
            memory_.write(outer.place + at(fields.stacktop), static_cast<std::int32_t>(top));
        }
        EXPECT_LE(follow(outer.object).count, 1U);
    }
}

TEST_P(Coroutines, OtherObjectsAreTheirOwnEnd) {
    const CoroutineChain chain = follow(make_.none);
    EXPECT_EQ(chain.end, make_.none);
    EXPECT_EQ(chain.count, 0U);
    EXPECT_EQ(follow(Address()).count, 0U);
}

class AsyncioTasks : public AsyncioOf {
  protected:
    Addresses visit_all(const test::FakeAsyncio::Loop& loop) {
        Addresses visited;
        const auto note = [&](Address task) {
            visited.push_back(task);
            return visited.size() < max_visits_;
        };
        EXPECT_TRUE(asyncio_.find(objects_, loop.modules).has_value());
        of_thread_ = asyncio_.visit_tasks_of_thread(objects_, loop.thread.state, note);
        of_interpreter_ = asyncio_.visit_tasks(objects_, loop.thread.interpreter, note);
        return visited;
    }
    Asyncio asyncio_;
    std::size_t max_visits_ = SIZE_MAX;
    Status of_thread_, of_interpreter_;
};

TEST_P(AsyncioTasks, TheRunningLoopIsFound) {
    EXPECT_EQ(asyncio_.read_running_loop(objects_, make_.make_thread(make_.loop).state),
              make_.loop);
    const auto none = asyncio_.read_running_loop(objects_, make_.make_thread(Address()).state);
    ASSERT_TRUE(none.has_value());
    EXPECT_TRUE(none->is_null());
}

TEST_P(AsyncioTasks, AThreadWithoutADictRunsNoLoop) {
    const auto thread = make_.make_thread(make_.loop);
    memory_.write(thread.state + at(layout_.thread_state.dict), Address());
    if (has(layout_.thread_state.asyncio_running_loop)) {
        memory_.write(thread.state + at(layout_.thread_state.asyncio_running_loop), Address());
    }
    const auto loop = asyncio_.read_running_loop(objects_, thread.state);
    ASSERT_TRUE(loop.has_value());
    EXPECT_TRUE(loop->is_null());
    EXPECT_FALSE(asyncio_.read_running_loop(objects_, Address(0x66660000)).has_value());
}

TEST_P(AsyncioTasks, AsyncioThatHasNotBeenImportedIsNotReady) {
    const Address modules =
        make_.objects().make_dict({{make_.objects().make_str("sys"), make_.none}});
    const Status status = asyncio_.find(objects_, modules);
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().kind, ErrorKind::kNotReady);
}

TEST_P(AsyncioTasks, TheTasksOfALoopAreVisited) {
    const Address one = make_.make_task({});
    const Address two = make_.make_task({});
    EXPECT_EQ(visit_all(make_.make_loop({one, two})), (Addresses{one, two}));
    EXPECT_TRUE(of_thread_.has_value());
    EXPECT_TRUE(of_interpreter_.has_value());
}

TEST_P(AsyncioTasks, AllSetsOfTheModuleAreVisitedAndHoldReferencesThatAreGone) {
    auto loop = make_.make_loop({});
    loop.modules = make_.make_modules({{"_all_tasks", make_.make_weak_set({kOne, {}, kTwo})},
                                       {"_scheduled_tasks", make_.make_weak_set({kThree})},
                                       {"_eager_tasks", make_.make_set({{}, kOne})}});
    EXPECT_EQ(visit_all(loop), (Addresses{kOne, kTwo, kThree, kOne}));
    EXPECT_TRUE(of_interpreter_.has_value());
    for (max_visits_ = 1; max_visits_ < 4; ++max_visits_) {
        EXPECT_EQ(visit_all(loop).size(), max_visits_);
    }
}

TEST_P(AsyncioTasks, ASetThatCannotBeReadLeavesTheOthers) {
    auto loop = make_.make_loop({});
    loop.modules = make_.make_modules({{"_all_tasks", make_.none},
                                       {"_scheduled_tasks", make_.make_weak_set({kThree})},
                                       {"_eager_tasks", Address(0x66660000)}});
    EXPECT_EQ(visit_all(loop), (Addresses{kThree}));
    EXPECT_FALSE(of_interpreter_.has_value());
}

TEST_P(AsyncioTasks, ASetWithTooManySlotsIsVisitedInPart) {
    constexpr std::size_t kBound = Asyncio::kMaxSlots;
    Addresses keys(kBound + 1);
    keys.front() = kOne;
    keys[kBound - 1] = kTwo;
    keys.back() = kThree;
    auto loop = make_.make_loop({});
    loop.modules = make_.make_modules({{"_eager_tasks", make_.make_set(keys)}});
    EXPECT_EQ(visit_all(loop), (Addresses{kOne, kTwo}));
    ASSERT_FALSE(of_interpreter_.has_value());
    EXPECT_EQ(of_interpreter_.error().kind, ErrorKind::kBoundExceeded);
}

/// Walks over all tasks that stop on the way and go on later.
class ResumedWalks : public AsyncioTasks {
  protected:
    static constexpr std::size_t kTasks = 9;

    void SetUp() override {
        for (std::size_t i = 0; i < kTasks; ++i) {
            tasks_.push_back(make_.make_task({}));
        }
        loop_ = make_.make_loop(tasks_);
        ASSERT_TRUE(asyncio_.find(objects_, loop_.modules).has_value());
    }
    /// Goes on for so many tasks.
    Addresses go_on(std::size_t at_most = SIZE_MAX) {
        Addresses visited;
        const Status status = asyncio_.visit_tasks(objects_, loop_.thread.interpreter,
                                                   loop_.thread.state, cursor_, [&](Address task) {
                                                       visited.push_back(task);
                                                       return visited.size() < at_most;
                                                   });
        EXPECT_TRUE(status.has_value());
        return visited;
    }
    /// All tasks, from one step after the other.
    Addresses visit_in_steps(std::size_t at_once) {
        Addresses all;
        cursor_ = {};
        for (std::size_t steps = 0; !cursor_.is_done && steps < 100; ++steps) {
            const Addresses some = go_on(at_once);
            EXPECT_LE(some.size(), at_once);
            all.insert(all.end(), some.begin(), some.end());
        }
        EXPECT_TRUE(cursor_.is_done);
        return all;
    }
    Addresses tasks(std::size_t from, std::size_t end = kTasks) const {
        return {tasks_.begin() + static_cast<std::ptrdiff_t>(from),
                tasks_.begin() + static_cast<std::ptrdiff_t>(end)};
    }

    Addresses tasks_;
    test::FakeAsyncio::Loop loop_;
    TaskCursor cursor_;
};

TEST_P(ResumedWalks, EachTaskIsVisitedOnce) {
    for (const std::size_t at_once :
         {std::size_t{1}, std::size_t{2}, std::size_t{5}, kTasks - 1, kTasks, kTasks + 1}) {
        EXPECT_EQ(visit_in_steps(at_once), tasks_) << at_once;
    }
}

TEST_P(ResumedWalks, OneThatIsDoneVisitsNothing) {
    EXPECT_EQ(go_on(), tasks_);
    EXPECT_TRUE(cursor_.is_done);
    EXPECT_EQ(go_on(), Addresses{});
}

TEST_P(ResumedWalks, ALoopWithoutTasksIsDoneAtOnce) {
    loop_ = make_.make_loop({});
    ASSERT_TRUE(asyncio_.find(objects_, loop_.modules).has_value());
    EXPECT_EQ(go_on(), Addresses{});
    EXPECT_TRUE(cursor_.is_done);
}

TEST_P(ResumedWalks, AllSetsOfTheModuleAreVisitedOneAfterTheOther) {
    const Address set = make_.make_weak_set(tasks(0, 3));
    const Address other = make_.make_weak_set(tasks(3, 6));
    loop_ = make_.make_loop({});
    loop_.modules = make_.make_modules({{"_all_tasks", set},
                                        {"_scheduled_tasks", other},
                                        {"_eager_tasks", make_.make_set(tasks(6))}});
    ASSERT_TRUE(asyncio_.find(objects_, loop_.modules).has_value());
    for (const std::size_t at_once : {1U, 2U, 3U, 4U}) {
        EXPECT_EQ(visit_in_steps(at_once), tasks_) << at_once;
    }
}

TEST_P(ResumedWalks, TasksOfASetWithAnotherTableAreAllVisited) {
    const Address set = make_.make_set(tasks_);
    loop_ = make_.make_loop({});
    loop_.modules = make_.make_modules({{"_eager_tasks", set}});
    ASSERT_TRUE(asyncio_.find(objects_, loop_.modules).has_value());
    EXPECT_EQ(go_on(4), tasks(0, 4));
    // The first one has ended, and one that has not been visited is where it stood.
    Addresses moved = tasks(1);
    std::swap(moved.front(), moved.back());
    const auto table = memory_.read_pointer(make_.make_set(moved) + at(layout_.set.table));
    ASSERT_TRUE(table.has_value());
    memory_.write(set + at(layout_.set.table), *table);
    memory_.write(set + at(layout_.set.mask), std::intptr_t{7});
    EXPECT_EQ(go_on(), moved);
    EXPECT_TRUE(cursor_.is_done);
}

/// Of the versions that keep lists of tasks.
class ResumedLists : public ResumedWalks {
  protected:
    void unlink(Address task) { make_.unlink(head(), linked_, task); }
    Address head() const {
        return loop_.thread.state + at(layout_.thread_state.asyncio_tasks_head);
    }

    void SetUp() override {
        ResumedWalks::SetUp();
        linked_ = tasks_;
    }
    Addresses linked_;
};

TEST_P(ResumedLists, TheListOfTheThreadIsFollowedByThatOfTheInterpreter) {
    make_.link(head(), tasks(0, 4));
    make_.link(loop_.thread.interpreter + at(layout_.interpreter.asyncio_tasks_head), tasks(4));
    for (const std::size_t at_once : {1U, 3U, 4U, 5U}) {
        EXPECT_EQ(visit_in_steps(at_once), tasks_) << at_once;
    }
}

TEST_P(ResumedLists, WhereTheLastOfThoseVisitedHaveEndedTheOthersFollow) {
    constexpr std::size_t kVisited = 5;
    ASSERT_EQ(go_on(kVisited), tasks(0, kVisited));
    // The newest, and those before it: up to three of four that are remembered.
    for (std::size_t ended = 1; ended <= 3; ++ended) {
        unlink(tasks_[kVisited - ended]);
        const TaskCursor cursor = cursor_;
        EXPECT_EQ(go_on(), tasks(kVisited)) << ended;
        cursor_ = cursor;
    }
}

TEST_P(ResumedLists, WhereAllThoseRememberedHaveEndedTheListBeginsAnew) {
    constexpr std::size_t kVisited = 5;
    ASSERT_EQ(go_on(kVisited), tasks(0, kVisited));
    for (std::size_t i = 1; i < kVisited; ++i) {
        unlink(tasks_[i]);
    }
    EXPECT_EQ(go_on(), linked_);
    EXPECT_EQ(linked_.size(), kTasks - 4);
    EXPECT_TRUE(cursor_.is_done);
}

TEST_P(ResumedLists, WhereTheMemoryOfThoseVisitedIsGoneTheListBeginsAnew) {
    constexpr std::size_t kVisited = 2;
    ASSERT_EQ(go_on(kVisited), tasks(0, kVisited));
    for (std::size_t i = 0; i < kVisited; ++i) {
        unlink(tasks_[i]);
        memory_.unmap(tasks_[i]);
    }
    EXPECT_EQ(go_on(), tasks(kVisited));
}

TEST_P(ResumedLists, OthersThatEndOrBeginOnTheWayDoNoHarm) {
    ASSERT_EQ(go_on(3), tasks(0, 3));
    unlink(tasks_[0]);
    unlink(tasks_[3]);
    linked_.push_back(make_.make_task({}));
    make_.link(head(), linked_);
    EXPECT_EQ(go_on(), Addresses(linked_.begin() + 2, linked_.end()));
}

TEST_P(ResumedLists, ANodeThatIsUsedForSomethingElseIsNotFollowed) {
    ASSERT_EQ(go_on(1), tasks(0, 1));
    unlink(tasks_[0]);
    // It points to where nothing points back from.
    const Address node = tasks_[0] + at(layout_.task.node);
    for (const Address next : {make_.none, Address(0x66660000), head()}) {
        memory_.write(node, next);
        const TaskCursor cursor = cursor_;
        EXPECT_EQ(go_on(), tasks(1));
        cursor_ = cursor;
    }
}

/// Of the same versions.
class TaskLists : public AsyncioTasks {};

TEST_P(TaskLists, TheListOfTheInterpreterIsVisited) {
    const Address one = make_.make_task({});
    const auto loop = make_.make_loop({});
    make_.link(loop.thread.interpreter + at(layout_.interpreter.asyncio_tasks_head), {one});
    EXPECT_EQ(visit_all(loop), Addresses{one});
}

TEST_P(TaskLists, TheSetsOfTheCModuleAreVisited) {
    auto loop = make_.make_loop({});
    loop.modules = make_.make_modules({}, {make_.none, make_.make_weak_set({kOne}), Address(3),
                                           make_.make_set({kTwo}), Address(0x66660000)});
    EXPECT_EQ(visit_all(loop), (Addresses{kOne, kTwo}));
}

TEST_P(TaskLists, AListThatDoesNotComeBackToItsHeadIsCut) {
    const Address one = make_.make_task({});
    const Address two = make_.make_task({});
    const auto loop = make_.make_loop({one, two});
    const Address node = two + at(layout_.task.node);
    memory_.write(node, one + at(layout_.task.node));
    EXPECT_EQ(visit_all(loop).size(), Asyncio::kMaxTasks);
    ASSERT_FALSE(of_thread_.has_value());
    EXPECT_EQ(of_thread_.error().kind, ErrorKind::kBoundExceeded);
}

TEST_P(TaskLists, AListThatBreaksOffIsToldFromOneThatEnds) {
    const Address one = make_.make_task({});
    const auto loop = make_.make_loop({one});
    const Address node = one + at(layout_.task.node);
    memory_.write(node, Address());
    EXPECT_EQ(visit_all(loop), Addresses{one});
    ASSERT_FALSE(of_thread_.has_value());
    EXPECT_EQ(of_thread_.error().kind, ErrorKind::kUnreadable);
    memory_.write(node, Address(0x66660000));
    EXPECT_EQ(visit_all(loop).size(), 2U);
    ASSERT_FALSE(of_thread_.has_value());
    EXPECT_EQ(of_thread_.error().kind, ErrorKind::kUnreadable);
    memory_.write(node, Address(0x66660001));
    EXPECT_EQ(visit_all(loop), Addresses{one});
    ASSERT_FALSE(of_thread_.has_value());
    EXPECT_EQ(of_thread_.error().kind, ErrorKind::kInvalid);
    // A thread that has not got its list yet.
    memory_.write(loop.thread.state + at(layout_.thread_state.asyncio_tasks_head), Address());
    EXPECT_EQ(visit_all(loop), Addresses{});
    EXPECT_TRUE(of_thread_.has_value());
}

TEST_P(AsyncioTasks, ATaskIsReadWhereTheCModuleKeepsIt) {
    const Address coro = make_.make_object("coroutine");
    const Address name = make_.objects().make_str("name");
    const Address future = make_.make_future();
    for (const bool is_done : {false, true}) {
        const Address type =
            is_done ? make_.task_type() : make_.type("MyTask", 400, make_.task_type());
        const auto task = asyncio_.read_task(objects_, make_.make_task({.coro = coro,
                                                                        .name = name,
                                                                        .fut_waiter = future,
                                                                        .of_type = type,
                                                                        .is_done = is_done}));
        ASSERT_TRUE(task.has_value());
        EXPECT_EQ(task->coro, coro);
        EXPECT_EQ(task->name, name);
        EXPECT_EQ(task->fut_waiter, future);
        EXPECT_EQ(task->loop, make_.loop);
        EXPECT_EQ(task->is_done, is_done);
    }
}

TEST_P(AsyncioTasks, ATaskThatIsWrittenInPythonIsReadByItsAttributes) {
    const auto task = asyncio_.read_task(
        objects_,
        make_.make_instance("Task", {{"_coro", kOne}, {"_loop", kTwo}, {"_name", kThree}}));
    ASSERT_TRUE(task.has_value());
    EXPECT_EQ(task->coro, kOne);
    EXPECT_EQ(task->loop, kTwo);
    EXPECT_EQ(task->name, kThree);
    EXPECT_TRUE(task->fut_waiter.is_null());
    EXPECT_FALSE(task->is_done);
}

TEST_P(AsyncioTasks, WhatHasNoCoroutineIsNoTask) {
    EXPECT_FALSE(asyncio_.read_task(objects_, make_.make_instance("X", {{"_loop", kTwo}})));
    EXPECT_FALSE(asyncio_.read_task(objects_, make_.make_future()));
    EXPECT_FALSE(asyncio_.read_task(objects_, make_.none));
    EXPECT_FALSE(asyncio_.read_task(objects_, Address()));
    EXPECT_FALSE(asyncio_.read_task(objects_, Address(0x66660000)));
}

class Waiters : public AsyncioOf {
  protected:
    void SetUp() override {
        awaited_ = make_.make_task({});
        waiter_ = make_.make_task({});
        between_ = make_.make_future();
        make_.set_callbacks(between_, {make_.make_wakeup(waiter_)});
    }
    /// Who waits for `future`.
    Addresses waiters_of(Address future) {
        Addresses found;
        is_whole_ = asyncio_.visit_waiters(objects_, future, [&](Address task) {
            found.push_back(task);
            return true;
        });
        return found;
    }
    Addresses waiters_by(Address callback) {
        make_.set_callbacks(awaited_, {callback});
        return waiters_of(awaited_);
    }

    Asyncio asyncio_;
    Address awaited_, waiter_;
    Address between_;  // what waiter_ waits for
    bool is_whole_ = false;
};

TEST_P(Waiters, NobodyWaitsForWhatHasNoCallbacks) {
    EXPECT_EQ(waiters_of(awaited_), Addresses{});
    EXPECT_TRUE(is_whole_);
    EXPECT_EQ(waiters_of(make_.none), Addresses{});
    EXPECT_EQ(waiters_of(Address(0x66660000)), Addresses{});
}

TEST_P(Waiters, ATaskIsWokenUp) {
    EXPECT_EQ(waiters_by(make_.make_wakeup(waiter_)), Addresses{waiter_});
    EXPECT_TRUE(is_whole_);
    EXPECT_EQ(waiters_by(make_.make_object("TaskWakeupMethWrapper", {waiter_})),
              Addresses{waiter_});
    EXPECT_EQ(waiters_by(make_.make_builtin("task_wakeup", waiter_)), Addresses{waiter_});
    EXPECT_EQ(waiters_by(make_.make_method("Task.__wakeup", waiter_)), Addresses{waiter_});
}

TEST_P(Waiters, OtherFunctionsWakeNobodyUp) {
    EXPECT_EQ(waiters_by(make_.make_builtin("task_wakeup2", waiter_)), Addresses{});
    EXPECT_EQ(waiters_by(make_.make_builtin("set", waiter_)), Addresses{});
    EXPECT_EQ(waiters_by(make_.make_method("App.wakeup", waiter_)), Addresses{});
    EXPECT_EQ(waiters_by(make_.make_function("app.<locals>._done_callback", {{"outer", between_}})),
              Addresses{});
    EXPECT_EQ(waiters_by(make_.make_object("functools.partial", {make_.none, make_.none})),
              Addresses{});
    EXPECT_EQ(waiters_by(make_.none), Addresses{});
    EXPECT_EQ(waiters_by(Address(0x66660000)), Addresses{});
    EXPECT_TRUE(is_whole_);
}

TEST_P(Waiters, AllCallbacksOfATaskAreLookedAt) {
    const Address second = make_.make_task({});
    const Address third = make_.make_task({});
    make_.set_callbacks(awaited_, {make_.make_wakeup(waiter_), make_.none,
                                   make_.make_wakeup(second), make_.make_wakeup(third)});
    EXPECT_EQ(waiters_of(awaited_), (Addresses{waiter_, second, third}));
    std::size_t visits = 0;
    asyncio_.visit_waiters(objects_, awaited_, [&](Address) { return ++visits < 2; });
    EXPECT_EQ(visits, 2U);
}

TEST_P(Waiters, ClosuresOfAsyncioLeadOn) {
    const struct {
        const char* function;
        const char* variable;
    } constructs[] = {
        {"gather.<locals>._done_callback", "outer"},
        {"_gather.<locals>._done_callback", "outer"},
        {"shield.<locals>._inner_done_callback", "outer"},
        {"_wait.<locals>._on_completion", "waiter"},
    };
    for (const auto& [function, variable] : constructs) {
        EXPECT_EQ(waiters_by(make_.make_function(
                      function,
                      {{"children", make_.none}, {variable, between_}, {"return_exceptions", {}}})),
                  Addresses{waiter_})
            << function;
        EXPECT_TRUE(is_whole_);
        EXPECT_EQ(waiters_by(make_.make_function(function, {{"other", between_}})), Addresses{});
        EXPECT_EQ(waiters_by(make_.make_function(function, {{variable, {}}})), Addresses{});
        EXPECT_EQ(waiters_by(make_.make_function(function)), Addresses{});
    }
}

TEST_P(Waiters, AFunctionWithTooManyVariablesIsNotSearched) {
    test::FakeAsyncio::Attributes closure(65, {"x", make_.none});
    closure.emplace_back("outer", between_);
    EXPECT_EQ(waiters_by(make_.make_function("gather.<locals>._done_callback", closure)),
              Addresses{});
    // More cells than names.
    const Address function =
        make_.make_function("gather.<locals>._done_callback", {{"outer", between_}});
    const Address place = function + at(layout_.function.closure);
    const auto cells = memory_.read_pointer(place);
    ASSERT_TRUE(cells.has_value());
    const auto cell = memory_.read_pointer(*cells + at(layout_.tuple.items));
    ASSERT_TRUE(cell.has_value());
    EXPECT_EQ(waiters_by(function), Addresses{waiter_});
    memory_.write(place, make_.make_tuple({make_.none, make_.none, *cell}));
    EXPECT_EQ(waiters_by(function), Addresses{});
}

TEST_P(Waiters, WaitForOfOldLeadsOn) {
    const Address function = make_.make_function("_release_waiter");
    EXPECT_EQ(waiters_by(make_.make_partial(function, {between_})), Addresses{waiter_});
    EXPECT_EQ(waiters_by(make_.make_partial(make_.make_function("other"), {between_})),
              Addresses{});
}

TEST_P(Waiters, ATaskGroupLeadsToItsOwner) {
    constexpr const char* kName = "TaskGroup._on_task_done";
    const auto make_group = [&](Address future) {
        return make_.make_instance("TaskGroup",
                                   {{"_entered", make_.none}, {"_on_completed_fut", future}});
    };
    EXPECT_EQ(waiters_by(make_.make_method(kName, make_group(between_))), Addresses{waiter_});
    EXPECT_EQ(waiters_by(make_.make_method(kName, make_group(make_.none))), Addresses{});
    EXPECT_EQ(waiters_by(make_.make_method(kName, make_group({}))), Addresses{});
    EXPECT_EQ(waiters_by(make_.make_method(kName, make_.none)), Addresses{});
    EXPECT_TRUE(is_whole_);
}

TEST_P(Waiters, AsCompletedLeadsToTheGettersOfItsQueue) {
    const Address queue = make_.make_queue({make_.make_future(), between_});
    EXPECT_EQ(waiters_by(make_.make_function("as_completed.<locals>._on_completion",
                                             {{"done", queue}, {"todo", make_.none}})),
              Addresses{waiter_});
    const Address iterator = make_.make_instance("_AsCompletedIterator", {{"_done", queue}});
    EXPECT_EQ(waiters_by(make_.make_method("_AsCompletedIterator._handle_completion", iterator)),
              Addresses{waiter_});
}

TEST_P(Waiters, OfAQueueTheFirstBlockIsRead) {
    const Addresses getters(64, between_);
    const auto count_by = [&](Address queue) {
        return waiters_by(
                   make_.make_function("as_completed.<locals>._on_completion", {{"done", queue}}))
            .size();
    };
    EXPECT_EQ(count_by(make_.make_queue(getters, 0)), 64U);
    const Address queue = make_.make_queue({between_}, 63);
    EXPECT_EQ(count_by(queue), 1U);
    // A length that is not true: behind the last place is the link to the next block.
    const auto deque = find_attribute(objects_, queue, "_getters");
    ASSERT_TRUE(deque.has_value());
    const auto block = memory_.read_pointer(*deque + at(layout_.object.ob_size) + sizeof(void*));
    ASSERT_TRUE(block.has_value());
    ASSERT_TRUE(memory_.write(*block + 65 * sizeof(void*), between_));
    for (const std::intptr_t length : {std::intptr_t{2}, INTPTR_MAX}) {
        memory_.write(*deque + at(layout_.object.ob_size), length);
        EXPECT_EQ(count_by(queue), 1U);
    }
    memory_.write(*deque + at(layout_.object.ob_size), std::intptr_t{-1});
    EXPECT_EQ(count_by(queue), 0U);
    memory_.write(*deque + at(layout_.object.ob_size), std::intptr_t{1});
    for (const std::intptr_t first : {std::intptr_t{64}, std::intptr_t{-1}, INTPTR_MAX}) {
        memory_.write(*deque + at(layout_.object.ob_size) + 3 * sizeof(void*), first);
        EXPECT_EQ(count_by(queue), 0U);
    }
}

TEST_P(Waiters, AFutureThatIsWrittenInPythonHasItsCallbacksInAnAttribute) {
    const Address callbacks =
        make_.make_list({make_.make_tuple({make_.make_method("Task.__wakeup", waiter_), {}})});
    const Address future =
        make_.make_instance("Future", {{"_loop", make_.loop}, {"_callbacks", callbacks}});
    EXPECT_EQ(waiters_of(future), Addresses{waiter_});
}

TEST_P(Waiters, NoMoreCallbacksAreLookedAtThanTheBound) {
    Addresses callbacks(256, make_.none);
    callbacks.back() = make_.make_wakeup(waiter_);
    make_.set_callbacks(awaited_, callbacks);
    EXPECT_EQ(waiters_of(awaited_), Addresses{waiter_});
    EXPECT_TRUE(is_whole_);
    callbacks.insert(callbacks.begin(), make_.none);
    make_.set_callbacks(awaited_, callbacks);
    EXPECT_EQ(waiters_of(awaited_), Addresses{});
    EXPECT_FALSE(is_whole_);
}

TEST_P(Waiters, OfALongerListOnlySoManyAreReadAsWell) {
    const auto future_of = [&](std::size_t count) {
        Addresses tuples(count, make_.make_tuple({make_.none, make_.none}));
        tuples[0] = make_.make_tuple({make_.make_wakeup(waiter_), make_.none});
        return make_.make_instance("Future", {{"_callbacks", make_.make_list(tuples)}});
    };
    EXPECT_EQ(waiters_of(future_of(256)), Addresses{waiter_});
    EXPECT_TRUE(is_whole_);
    EXPECT_EQ(waiters_of(future_of(257)), Addresses{waiter_});
    EXPECT_FALSE(is_whole_);
}

TEST_P(Waiters, ARingOfFuturesEnds) {
    const auto lead_to = [&](Address future) {
        return make_.make_function("gather.<locals>._done_callback", {{"outer", future}});
    };
    make_.set_callbacks(between_, {lead_to(awaited_)});
    make_.set_callbacks(awaited_, {lead_to(between_)});
    EXPECT_EQ(waiters_of(awaited_), Addresses{});
    EXPECT_FALSE(is_whole_);
}

TEST_P(Waiters, CallbacksAreCountedWhereverTheyStand) {
    // 250 that lead to a future each of whose 250 is none.
    make_.set_callbacks(between_, Addresses(250));
    make_.set_callbacks(awaited_,
                        Addresses(250, make_.make_function("gather.<locals>._done_callback",
                                                           {{"outer", between_}})));
    const std::size_t calls = memory_.calls;
    EXPECT_EQ(waiters_of(awaited_), Addresses{});
    EXPECT_FALSE(is_whole_);
    EXPECT_LT(memory_.calls - calls, 5'000U);
}

TEST_P(Waiters, AChainThatIsTooLongIsGivenUp) {
    // The waiter is behind a future for each construct: of as many as are followed, and one more.
    Address future = between_;
    for (int i = 1; i < 8; ++i) {
        const Address next = make_.make_future();
        make_.set_callbacks(
            next, {make_.make_function("_wait.<locals>._on_completion", {{"waiter", future}})});
        future = next;
    }
    EXPECT_EQ(waiters_of(future), Addresses{waiter_});
    EXPECT_TRUE(is_whole_);
    make_.set_callbacks(
        awaited_, {make_.make_function("_wait.<locals>._on_completion", {{"waiter", future}})});
    EXPECT_EQ(waiters_of(awaited_), Addresses{});
    EXPECT_FALSE(is_whole_);
}

#define INSTANTIATE(Suite)                                                               \
    INSTANTIATE_TEST_SUITE_P(Versions, Suite, testing::Range(8, 16), test::name_of_row); \
    INSTANTIATE_TEST_SUITE_P(FreeThreaded, Suite, testing::Values(113, 114, 115), test::name_of_row)

INSTANTIATE(Containers);
INSTANTIATE(Kinds);
INSTANTIATE(Coroutines);
INSTANTIATE(AsyncioTasks);
INSTANTIATE(ResumedWalks);
INSTANTIATE(Waiters);
INSTANTIATE_TEST_SUITE_P(Versions, ResumedLists, testing::Values(14, 15, 114, 115),
                         test::name_of_row);
INSTANTIATE_TEST_SUITE_P(Versions, TaskLists, testing::Values(14, 15, 114, 115), test::name_of_row);

}  // namespace
}  // namespace echion::cpython
