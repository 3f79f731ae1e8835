#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/asyncio.h"
#include "cpython/coroutines.h"
#include "fake_asyncio.h"
#include "memory/page_batch.h"
#include "recorded_stream.h"
#include "rows.h"
#include "sampling/loop_codes.h"
#include "sampling/python_memory.h"
#include "sampling/stack_codes.h"
#include "sampling/task_labels.h"
#include "sampling/task_sweep.h"
#include "test_memory.h"

namespace echion::test {

/// A made-up event loop in this process's own memory, and a sweep over its tasks.
class SweptTasks : public testing::TestWithParam<int> {
  protected:
    using State = cpython::CoroutineState;
    using Coroutine = FakeAsyncio::Coroutine;

    static constexpr std::size_t kMaxFrames = 16;
    static constexpr std::size_t kCodes = 128;

    void SetUp() override {
        python_.view.layout = &layout_;
        python_.view.code_type = code_type_;
        ASSERT_TRUE(python_.reader.open_own());
        python_.batch = PageBatch::make(1 << 20).value();
        codes_ = code::CodeRegistry::make(python_.view, kCodes).value();
        ASSERT_TRUE(stack_codes_.reserve(kMaxFrames) && sweep_.reserve(kMaxFrames));
    }

    Address str(const std::string& text) { return make_.objects().make_str(text); }
    /// A coroutine of a function of that name.
    Coroutine make_coroutine(const std::string& name, State state = State::kSuspended,
                             Address awaits = {}) {
        const Coroutine made = make_.make_coroutine(state, awaits);
        make_.objects().write_code(made.code,
                                   {code_type_, str(name), file_, line_table_, 1, ++version_});
        return made;
    }
    /// A task that stands in one frame: of "name()".
    Address make_task(const std::string& name, State state = State::kSuspended) {
        return make_task(name, make_coroutine(name + "()", state));
    }
    Address make_task(const std::string& name, const Coroutine& coroutine) {
        return make_.make_task({.coro = coroutine.object, .name = str(name)});
    }
    void finish(Address task) { memory_.write(task + cpython::at(layout_.task.state), 1); }
    void rename(Address task, const std::string& name) {
        memory_.write(task + cpython::at(layout_.task.name), str(name));
    }
    /// From now on those wait for `awaited`, and no others.
    void wait(const std::vector<Address>& waiters, Address awaited) {
        std::vector<Address> callbacks;
        for (const Address waiter : waiters) {
            callbacks.push_back(make_.make_wakeup(waiter));
        }
        make_.set_callbacks(awaited, callbacks);
    }
    /// The loop has these tasks, in this order.
    void set_tasks(const std::vector<Address>& tasks) { loop_ = make_.make_loop(tasks); }

    void begin_sweep() {
        memory_.copy_to_own_places();
        codes_.begin_tick();
        codes_.begin_look(python_.reader);
        labels_.begin_tick();
        ASSERT_TRUE(sweep_.begin(loop_.modules));
    }
    enum class Pace { kAtOnce, kOneByOne };
    /// Reads all tasks that are left, or one.
    void read(Pace pace) {
        memory_.copy_to_own_places();
        sweep_.read({loop_.thread.interpreter, loop_.thread.state, make_.loop}, places_,
                    pace == Pace::kAtOnce ? INT64_MAX : 0);
    }
    void read_and_keep(Pace pace) {
        read(pace);
        sweep_.assign();
        sweep_.keep();
    }
    /// Returns how many steps it took.
    std::size_t sweep(Pace pace = Pace::kAtOnce) {
        begin_sweep();
        std::size_t steps = 0;
        while (sweep_.is_under_way() && steps < 1000) {
            read_and_keep(pace);
            ++steps;
        }
        EXPECT_TRUE(sweep_.is_complete());
        return steps;
    }

    /// Has the ids of all code objects given anew.
    void renumber() {
        const Address code = make_coroutine("another").code;
        memory_.copy_to_own_places();
        const std::uint32_t before = codes_.numbering();
        for (std::size_t i = 0; i <= 2 * kCodes && codes_.numbering() == before; ++i) {
            codes_.forget();
            codes_.find_id(python_.reader, loop_codes_, code);
        }
        EXPECT_NE(codes_.numbering(), before);
    }

    const cpython::Layout& layout_ = row_of(GetParam());
    Mapping arena_ = Mapping::make_anonymous(std::size_t{1} << 24).value();
    TestMemory memory_{Address(reinterpret_cast<std::uintptr_t>(arena_.data()))};
    FakeAsyncio make_{memory_, layout_};
    Address code_type_ = make_.objects().make_type(0);
    Address file_ = str("/app/main.py");
    Address line_table_ = make_.objects().make_bytes("abcdef");
    std::uint32_t version_ = 0;  // of the last code object
    FakeAsyncio::Loop loop_{};
    std::vector<Address> places_;  // of the thread's frames

    RecordedStream stream_;
    sampling::PythonMemory python_;
    code::CodeRegistry codes_;
    sampling::TaskLabels labels_;
    sampling::LoopCodes loop_codes_{stream_.ticks()};
    sampling::StackCodes stack_codes_{python_, stream_.ticks(), loop_codes_, codes_, labels_};
    cpython::Asyncio asyncio_;
    sampling::TaskSweep sweep_{python_, codes_, stack_codes_, asyncio_};
};

}  // namespace echion::test
