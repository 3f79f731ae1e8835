// The readers of the collector's lists, of greenlets and of gevent's links on memory that makes no
// sense: a sane image of a thread with greenlets that are suspended, running and not started, and
// wait for each other, as one version of CPython and one of greenlet keep them, into which the
// input writes.
//
//      input:  u8 version, u8 layout of greenlet's, then patches (fuzz_support.h)

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "capture/greenlet_capture.h"
#include "fake_greenlets.h"
#include "fuzz_support.h"
#include "process_image.h"

namespace {

using namespace echion;
using namespace echion::cpython;
using capture::CapturedTask;
using capture::GreenletCapture;
using capture::TaskState;
using capture::TaskStore;
using fuzz::ImageReader;
using fuzz::is_utf8;
using fuzz::require;
using test::FakeGreenlets;

constexpr std::size_t kMaxFrames = 16;
constexpr std::size_t kStackFrames = 3;
constexpr std::size_t kMaxCalls = 1'000'000;

struct Image {
    std::vector<std::uint8_t> bytes;
    Address runtime, interpreter, modules, state;
};

Image make_image(const Layout& layout, FakeGreenlets::Kind kind) {
    test::TestMemory memory;
    FakeGreenlets make(memory, layout, kind);
    Image image{{}, make.collector.runtime, make.collector.interpreter, make.modules, make.state};
    const Address exceptions = make.exceptions_of(make.state);
    const Address dict = *memory.read_pointer(make.state + at(layout.thread_state.dict));
    make.set_current({}, {});
    const Address main = make.make_greenlet({});
    const auto suspended = [&](Address frame) {
        return FakeGreenlets::Fields{.parent = main,
                                     .main = main,
                                     .top_frame = frame,
                                     .exceptions = make.make_exception(exceptions),
                                     .dict = dict};
    };
    make.write(main,
               {.top_frame = make.make_frame({}).object, .exceptions = exceptions, .dict = dict});
    const std::size_t own_words = kind == FakeGreenlets::Kind::kFlat ? 17 : 3;
    const Address derived = make.make.type(
        "gevent._gevent_cgreenlet.Greenlet",
        layout.object.size + static_cast<std::intptr_t>((own_words + 2) * sizeof(void*)));
    memory.write(derived + at(layout.type.tp_base), make.type);
    const Address root = make.make_frame({}).place;
    const Address one = make.make_greenlet(suspended(make.make_frame(root).object), derived);
    const Address two = make.make_greenlet(suspended({}));
    const Address three = make.make_greenlet({.parent = one,
                                              .run = make.make.make_function("work"),
                                              .start = Address(),
                                              .stop = Address()});
    const Address waiter = make.make.make_object("gevent._gevent_c_waiter.Waiter", {one, two});
    const Address fields = one + at(layout.object.size) + own_words * sizeof(void*);
    memory.write(fields, make.make.make_list({make.make.make_builtin("switch", two),
                                              make.make.make_method("Waiter.switch", waiter)}));
    memory.write(fields + sizeof(void*),
                 make.make.make_object("gevent._gevent_cqueue.Queue", {waiter}));
    make.set_current(main, two);
    make.collector.fill(0, {two, three});
    make.collector.fill(2, {main, one});
    const Address end = memory.allocate(16);
    image.bytes.resize((end.value() - fuzz::kImageBase + kPageBytes - 1) / kPageBytes * kPageBytes);
    for (std::size_t i = 0; i < image.bytes.size(); ++i) {
        (void)memory.read_bytes(Address(fuzz::kImageBase + i), &image.bytes[i], 1);  // gaps: zero
    }
    require(image.bytes.size() <= 0x10000);  // a patch reaches no farther
    return image;
}

const Image& image_of(const Layout& row, FakeGreenlets::Kind kind) {
    static std::map<std::pair<const Layout*, FakeGreenlets::Kind>, Image> images;
    auto image = images.find({&row, kind});
    if (image == images.end()) {
        image = images.emplace(std::pair(&row, kind), make_image(row, kind)).first;
    }
    return image->second;
}

void check_greenlet(const TaskStore& store, const GreenletCapture::Outcome& outcome,
                    std::size_t index) {
    const CapturedTask& task = store.task(index);
    const auto is_known = [&](std::uint32_t other) {
        return other >= outcome.first && other < outcome.first + outcome.count;
    };
    for (const auto& piece : {task.name, task.type_name, task.function, task.waits_for_type}) {
        require(is_utf8(store.text(piece)));
    }
    require(task.parent == CapturedTask::kNone || is_known(task.parent));
    require(task.waits_for_count == 0 ? task.waits_for == CapturedTask::kNone
                                      : is_known(task.waits_for));
    const auto waiters = store.waiters(task);
    for (auto waiter = waiters.begin(); waiter != waiters.end(); ++waiter) {
        require(is_known(*waiter) && *waiter != index);
        require(std::find(waiters.begin(), waiter, *waiter) == waiter);
    }
    if (task.state == TaskState::kRunning) {
        require(task.frame_count == kStackFrames);
        return;
    }
    require(store.frames(task).size() <= kMaxFrames);
    for (const RawFrame& frame : store.frames(task)) {
        require(!frame.code.is_null());
    }
}

/// The image that nobody has written into is read as what it is.
void check_sane(const GreenletCapture& capture, const TaskStore& store,
                const GreenletCapture::Outcome& outcome) {
    require(capture.found().is_whole && capture.found().unreadable == 0 && !outcome.is_cut);
    require(outcome.count == 4);
    std::size_t frames = 0;
    std::size_t waiters = 0;
    for (std::size_t i = outcome.first; i < outcome.first + outcome.count; ++i) {
        frames += store.task(i).state == TaskState::kSuspended ? store.task(i).frame_count : 0;
        waiters += store.task(i).waiter_count;
    }
    require(frames == 3 && waiters == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) {
        return 0;
    }
    static GreenletCapture capture;
    static TaskStore store;
    const Layout& row = fuzz::pick_row(data[0]);
    if (row.free_threaded) {
        return 0;  // it has no lists
    }
    const auto kind = static_cast<FakeGreenlets::Kind>(data[1] % 3);
    const Image& sane = image_of(row, kind);
    std::vector<std::uint8_t> image = sane.bytes;
    fuzz::Input patches(data + 2, size - 2);
    fuzz::apply_patches(image, fuzz::kImageBase, patches);

    ImageReader memory(fuzz::kImageBase, image);
    capture.begin();
    capture.find(memory, row, {sane.runtime, sane.interpreter, sane.modules});
    (void)capture.has_greenlets(memory, row, sane.state);
    store.clear();
    for (int i = 0; i < 2; ++i) {  // the second time as another thread's
        const GreenletCapture::Outcome outcome =
            capture.read(memory, row, {sane.modules, sane.state, kStackFrames}, kMaxFrames, store);
        require(outcome.first + outcome.count == store.count());
        for (std::size_t j = 0; j < outcome.count; ++j) {
            check_greenlet(store, outcome, outcome.first + j);
        }
        if (size == 2) {
            check_sane(capture, store, outcome);
        }
    }
    require(memory.calls < kMaxCalls);
    return 0;
}
