#include "capture/task_store.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/utf8.h"

namespace echion::capture {

using cpython::at;

Status TaskStore::reserve() {
    if (is_reserved_) {
        return {};
    }
    auto tasks = ReservedArray<CapturedTask>::make(kMaxTasks);
    auto frames = ReservedArray<cpython::RawFrame>::make(kMaxFrames);
    auto waiters = ReservedArray<std::uint32_t>::make(kMaxWaiters);
    auto texts = ReservedArray<char>::make(kMaxTextBytes);
    if (!tasks || !frames || !waiters || !texts) {
        return fail(ErrorKind::kNoSpace, "reserve memory for tasks");
    }
    tasks_ = std::move(*tasks);
    frames_ = std::move(*frames);
    waiters_ = std::move(*waiters);
    texts_ = std::move(*texts);
    is_reserved_ = true;
    return {};
}

CapturedTask* TaskStore::add(Address task, TaskKind kind) {
    if (!tasks_.grow_to(used_.tasks + 1)) {
        return nullptr;
    }
    CapturedTask& added = tasks_[used_.tasks++];
    added = {};
    added.task = task;
    added.kind = kind;
    added.parent = CapturedTask::kNone;
    added.waits_for = CapturedTask::kNone;
    return &added;
}

std::span<cpython::RawFrame> TaskStore::make_room(std::size_t max_frames) {
    const std::size_t room =
        std::min(max_frames, frames_.capacity() - std::min(frames_.capacity(), used_.frames));
    if (room == 0 || !frames_.grow_to(used_.frames + room)) {
        return {};
    }
    return {frames_.data() + used_.frames, room};
}

void TaskStore::keep_frames(CapturedTask& task, std::size_t count) {
    task.first_frame = used_.frames;
    task.frame_count = count;
    used_.frames += count;
}

void TaskStore::begin_waiters(CapturedTask& task) {
    task.first_waiter = used_.waiters;
    task.waiter_count = 0;
}

bool TaskStore::add_waiter(CapturedTask& task, std::uint32_t waiter) {
    const auto known = waiters(task);
    if (std::find(known.begin(), known.end(), waiter) != known.end()) {
        return true;
    }
    if (!waiters_.grow_to(used_.waiters + 1)) {
        return false;
    }
    waiters_[used_.waiters++] = waiter;
    ++task.waiter_count;
    return true;
}

TextPiece TaskStore::keep(std::string_view text) {
    if (text.empty() || !texts_.grow_to(used_.text_bytes + text.size())) {
        return {};
    }
    const TextPiece piece{static_cast<std::uint32_t>(used_.text_bytes),
                          static_cast<std::uint32_t>(text.size())};
    std::memcpy(texts_.data() + used_.text_bytes, text.data(), text.size());
    used_.text_bytes += text.size();
    return piece;
}

TextPiece TaskStore::keep_type_name(cpython::ObjectReader& objects, Address object) {
    const auto type = cpython::is_object_address(object) ? objects.read_type_of(object)
                                                         : Result<Address>(Address());
    if (!type || !cpython::is_object_address(*type)) {
        return {};
    }
    const auto name = objects.memory().read_pointer(*type + at(objects.layout().type.tp_name));
    std::array<char, 64> into;
    const auto whole = name && *name ? cpython::read_c_string(objects.memory(), *name, into)
                                     : Result<std::string_view>(std::string_view());
    if (!whole) {
        return {};
    }
    // Of "module.Class" the class; without a character that was cut.
    const std::string_view last = whole->substr(whole->rfind('.') + 1);
    std::string_view rest = last;
    std::size_t size = 0;
    while (!rest.empty()) {
        const CodePoint next = take_code_point(rest);
        if (!next.is_well_formed()) {
            break;
        }
        size += next.size_bytes;
    }
    return last == "NoneType" ? TextPiece{} : keep(last.substr(0, size));
}

}  // namespace echion::capture
