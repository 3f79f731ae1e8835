#include "cpython/stack_round.h"

namespace echion::cpython {
namespace {

// Requests that a full round leaves for what closes it, and for what is asked for besides.
constexpr std::size_t kSpareRequests = 80;

}  // namespace

/// Where the layout has it outside of the GIL: which thread state runs.
PageBatch::Handle StackRound::add_current() {
    const Address current_at = current_state_address(view_);
    return current_at ? batch_.add(current_at, sizeof(void*)) : PageBatch::kNone;
}

void StackRound::begin(Address gil) {
    gil_ = gil;
    gil_before_ = batch_.add(gil, at(view_.layout->gil.size));
    current_before_ = add_current();
}

void StackRound::add_frame(Address cframe, Copies* copies) {
    copies->cframe_at = cframe;
    copies->cframe =
        cframe ? batch_.add(cframe + at(view_.layout->cframe.current_frame), sizeof(void*))
               : PageBatch::kNone;
}

bool StackRound::add(Address state, Address cframe, const PageSet& pages, Copies* copies) {
    const Layout& layout = *view_.layout;
    copies->state = batch_.add(state, at(layout.thread_state.size));
    add_frame(cframe, copies);
    return copies->state != PageBatch::kNone && batch_.add_pages(pages) &&
           batch_.free_bytes() >= batch_.capacity_bytes() / 4 &&
           batch_.free_requests() >= kSpareRequests;
}

void StackRound::add_again(Address state, Address cframe, Copies* copies) {
    add_frame(cframe, copies);
    // After that: a reader may copy it directly, which would cut the system call in two.
    copies->state = batch_.add(state, at(view_.layout->thread_state.size));
}

bool StackRound::end() {
    current_after_ = add_current();
    gil_after_ = batch_.add(gil_, at(view_.layout->gil.size));
    return gil_after_ != PageBatch::kNone;
}

bool StackRound::take_gil(GilState* before, GilState* after) const {
    const std::byte* before_copy = batch_.copy(gil_before_);
    const std::byte* after_copy = batch_.copy(gil_after_);
    if (before_copy == nullptr || after_copy == nullptr) {
        return false;
    }
    *before = parse_gil(*view_.layout, before_copy, batch_.copy(current_before_));
    *after = parse_gil(*view_.layout, after_copy, batch_.copy(current_after_));
    return true;
}

StackHead StackRound::take(const Copies& copies) const {
    StackHead head{};
    const std::byte* copy = batch_.copy(copies.state);
    if (copy == nullptr) {
        return head;
    }
    head.thread = parse_thread_head(*view_.layout, copy);
    head.is_read = true;
    if (!head.thread.cframe) {
        head.frame = head.thread.frame;
        head.has_frame = true;
    } else if (const std::byte* frame = batch_.copy(copies.cframe);
               frame != nullptr && head.thread.cframe == copies.cframe_at) {
        head.frame = load_address(frame, 0);
        head.has_frame = true;
    }
    return head;
}

bool StackRound::complete(MemoryReader& reader, StackHead* head) const {
    if (!head->has_frame) {
        const auto frame =
            reader.read_pointer(head->thread.cframe + at(view_.layout->cframe.current_frame));
        if (!frame) {
            return false;
        }
        head->frame = *frame;
        head->has_frame = true;
    }
    return true;
}

StackHead StackRound::read(MemoryReader& reader, Address state) const {
    StackHead head{};
    if (const auto thread = read_thread_head(reader, view_, state)) {
        head.thread = *thread;
        head.is_read = true;
        head.frame = thread->frame;
        head.has_frame = !thread->cframe;
    }
    return head;
}

}  // namespace echion::cpython
