// The readers of event loops and tasks on memory that makes no sense: a sane image of a thread with
// a running loop, tasks of every kind, coroutines, callbacks and sets, as one version keeps them,
// into which the input writes.
//
//      input:  u8 version, then patches (fuzz_support.h)

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "capture/task_capture.h"
#include "cpython/asyncio.h"
#include "cpython/coroutines.h"
#include "fake_asyncio.h"
#include "fuzz_support.h"
#include "process_image.h"

namespace {

using namespace echion;
using namespace echion::cpython;
using capture::CapturedTask;
using capture::TaskCapture;
using capture::TaskState;
using fuzz::ImageReader;
using fuzz::is_utf8;
using fuzz::require;
using test::FakeAsyncio;

constexpr std::size_t kMaxFrames = 16;
// Objects that are read by themselves cost less; a walk over all of the image, as often as there
// are callbacks, costs the most.
constexpr std::size_t kMaxCallsEach = 100'000;
constexpr std::size_t kMaxCalls = 1'000'000;

struct Image {
    std::vector<std::uint8_t> bytes;
    FakeAsyncio::Loop loop;
    std::vector<Address> roots;         // one of each kind of object
    std::vector<Address> frame_places;  // of the thread
};

/// A task for each way to wait for another one.
std::vector<Address> make_tasks(FakeAsyncio& make, Image& image) {
    using State = CoroutineState;
    using Stop = FakeAsyncio::Stop;
    const auto str = [&](std::string_view text) { return make.objects().make_str(text); };
    const Address future = make.make_future();
    const auto inner = make.make_coroutine(State::kSuspended, make.make_future_iterator(future));
    const auto generator = make.make_coroutine(State::kSuspended, make.make_driver(inner.object),
                                               Stop::kYieldFrom, "generator");
    const auto outer = make.make_coroutine(State::kSuspended, generator.object);
    const auto running = make.make_coroutine(State::kExecuting);
    const auto created = make.make_coroutine(State::kCreated);
    image.frame_places = {Address(0x10000), running.place, Address(0x10010)};

    const auto task = [&](Address coro, Address name) {
        return make.make_task({.coro = coro, .name = name, .fut_waiter = make.none});
    };
    const Address main = task(outer.object, str("main"));
    const Address worker = task(running.object, make.objects().make_int(7));
    const Address other = task(created.object, make.objects().make_str({0x20ac, 'x'}, 2, false));
    const Address python = make.make_instance("Task", {{"_coro", inner.object},
                                                       {"_loop", make.loop},
                                                       {"_name", str("python")},
                                                       {"_fut_waiter", future}});
    const Address wakeup = make.make_wakeup(main);
    const Address between = make.make_future();
    make.set_callbacks(between, {wakeup});
    const Address group = make.make_instance("TaskGroup", {{"_on_completed_fut", between}});
    const Address queue = make.make_queue({between, future});
    const Address iterator = make.make_instance("_AsCompletedIterator", {{"_done", queue}});
    make.set_callbacks(other,
                       {make.make_method("TaskGroup._on_task_done", group),
                        make.make_method("_AsCompletedIterator._handle_completion", iterator),
                        make.make_method("Task.__wakeup", python),
                        make.make_partial(make.make_function("_release_waiter"), {between})});
    make.await(main, worker);
    make.set_callbacks(
        worker,
        {make.make_function("gather.<locals>._done_callback",
                            {{"nfuts", make.none}, {"outer", between}}),
         make.make_function("as_completed.<locals>._on_completion", {{"done", queue}}),
         make.make_function("_wait.<locals>._on_completion", {{"waiter", between}}), wakeup});
    image.roots = {main,  worker,       other,          python,         between, group,
                   queue, outer.object, running.object, created.object, wakeup,  future};
    return {main, worker, other, python};
}

Image make_image(const Layout& layout) {
    test::TestMemory memory;
    FakeAsyncio make(memory, layout);
    Image image;
    const std::vector<Address> tasks = make_tasks(make, image);
    const std::vector<Address> of_c(tasks.begin(), tasks.end() - 1);
    image.loop = make.make_loop(of_c);
    const bool has_lists = has(layout.thread_state.asyncio_tasks_head);
    const Address eager = make.make_set({make.none, tasks[0]});
    if (has_lists) {
        image.loop.modules =
            make.make_modules({{"_scheduled_tasks", make.make_weak_set({tasks[3]})}},
                              {make.none, make.make_weak_set({tasks[3]}), eager});
    } else {
        image.loop.modules = make.make_modules({{"_all_tasks", make.make_weak_set(of_c)},
                                                {"_scheduled_tasks", make.make_weak_set(tasks)},
                                                {"_eager_tasks", eager}});
    }
    const Address end = memory.allocate(16);
    image.bytes.resize((end.value() - fuzz::kImageBase + kPageBytes - 1) / kPageBytes * kPageBytes);
    for (std::size_t i = 0; i < image.bytes.size(); ++i) {
        (void)memory.read_bytes(Address(fuzz::kImageBase + i), &image.bytes[i], 1);  // gaps: zero
    }
    require(image.bytes.size() <= 0x10000);  // a patch reaches no farther
    return image;
}

const Image& image_of(const Layout& row) {
    static std::map<const Layout*, Image> images;
    auto image = images.find(&row);
    if (image == images.end()) {
        image = images.emplace(&row, make_image(row)).first;
    }
    return image->second;
}

/// Reads one object as each of the things that it could be.
void read_everything(ObjectReader& objects, Asyncio& asyncio, Address root) {
    (void)asyncio.read_task(objects, root);
    std::size_t visits = 0;
    (void)asyncio.visit_waiters(objects, root, [&](Address) {
        ++visits;
        return true;
    });
    require(visits <= 256);
    std::array<RawFrame, kMaxFrames> frames;
    const CoroutineChain chain = follow_coroutines(objects, asyncio.kinds(), root, frames);
    require(chain.count <= frames.size());
    for (std::size_t i = 0; i < chain.count; ++i) {
        require(!frames[i].code.is_null() && frames[i].offset >= -2);
    }
    if (chain.state == CoroutineState::kExecuting) {
        require(chain.count == 0);
    }
}

void check_task(const TaskCapture& capture, const TaskCapture::Outcome& outcome,
                std::size_t frame_places, std::size_t index) {
    const CapturedTask& task = capture.task(index);
    const std::size_t end = outcome.first_task + outcome.task_count;
    require(is_utf8(capture.text(task.name)) && is_utf8(capture.text(task.waits_for_type)));
    require(task.waits_for == CapturedTask::kNone ||
            (task.waits_for >= outcome.first_task && task.waits_for < end));
    const auto waiters = capture.waiters(task);
    for (auto waiter = waiters.begin(); waiter != waiters.end(); ++waiter) {
        require(*waiter >= outcome.first_task && *waiter < end && *waiter != index);
        require(std::find(waiters.begin(), waiter, *waiter) == waiter);
    }
    if (task.state == TaskState::kRunning) {
        require(task.first_frame + task.frame_count <= frame_places && task.frame_count > 0);
    } else {
        require(capture.frames(task).size() <= kMaxFrames);
        for (const RawFrame& frame : capture.frames(task)) {
            require(!frame.code.is_null());
        }
    }
}

/// The image that nobody has written into is read as what it is.
void check_sane(const TaskCapture& capture, const TaskCapture::Outcome& outcome) {
    require(outcome.has_loop && !outcome.is_cut && outcome.task_count == 4);
    const auto find = [&](std::string_view name) {
        for (std::size_t i = 0; i < outcome.task_count; ++i) {
            if (capture.text(capture.task(outcome.first_task + i).name) == name) {
                return outcome.first_task + i;
            }
        }
        require(false);
        return std::size_t{0};
    };
    const std::size_t main = find("main");
    const std::size_t worker = find("Task-7");
    const std::size_t other = find("\xe2\x82\xacx");
    const std::size_t python = find("python");
    require(capture.task(main).state == TaskState::kSuspended &&
            capture.task(main).frame_count == 3 && capture.task(main).waits_for == worker);
    require(capture.task(worker).state == TaskState::kRunning &&
            capture.task(worker).frame_count == 2);
    require(capture.task(other).state == TaskState::kNotStarted &&
            capture.task(other).frame_count == 1);
    require(capture.text(capture.task(python).waits_for_type) == "Future" &&
            capture.task(python).frame_count == 1);
    require(capture.waiters(capture.task(worker)).size() == 1 &&
            capture.waiters(capture.task(worker))[0] == main);
    require(capture.waiters(capture.task(other)).size() == 2 &&
            capture.waiters(capture.task(other))[0] == main &&
            capture.waiters(capture.task(other))[1] == python);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    static TaskCapture capture;
    const Layout& row = fuzz::pick_row(data[0]);
    const Image& sane = image_of(row);
    std::vector<std::uint8_t> image = sane.bytes;
    fuzz::Input patches(data + 1, size - 1);
    fuzz::apply_patches(image, fuzz::kImageBase, patches);

    ImageReader memory(fuzz::kImageBase, image);
    ObjectReader objects(memory, row);
    Asyncio asyncio;
    const auto call_bounded = [&](auto&& call) {
        const std::size_t before = memory.calls;
        call();
        require(memory.calls - before < kMaxCallsEach);
    };
    for (const Address root : sane.roots) {
        call_bounded([&] { read_everything(objects, asyncio, root); });
    }
    (void)asyncio.read_running_loop(objects, sane.loop.thread.state);
    (void)asyncio.find(objects, sane.loop.modules);
    // How often a visitor is called is bounded by the sets' and lists' own limits, not by the
    // image.
    std::size_t visits = 0;
    const auto count = [&](Address) { return ++visits < 1000; };
    (void)asyncio.visit_tasks_of_thread(objects, sane.loop.thread.state, count);
    (void)asyncio.visit_tasks(objects, sane.loop.thread.interpreter, count);

    capture.clear();
    for (int i = 0; i < 2; ++i) {  // the second time as another thread's
        const TaskCapture::Outcome outcome =
            capture.read(memory, row,
                         {sane.loop.thread.interpreter, sane.loop.modules, sane.loop.thread.state,
                          sane.frame_places},
                         kMaxFrames);
        require(outcome.task_count == 0 || outcome.has_loop);
        for (std::size_t task = 0; task < outcome.task_count; ++task) {
            check_task(capture, outcome, sane.frame_places.size(), outcome.first_task + task);
        }
        if (size == 1) {
            check_sane(capture, outcome);
        }
    }
    require(memory.calls < kMaxCalls);
    return 0;
}
