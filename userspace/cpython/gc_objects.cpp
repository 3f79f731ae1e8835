#include "cpython/gc_objects.h"

#include <algorithm>
#include <cstring>

namespace echion::cpython {
namespace {

// A PyGC_Head and the object's head, up to and with ob_type.
constexpr std::size_t kMaxNodeBytes = 8 * sizeof(void*);

}  // namespace

Status GcObjects::begin(MemoryReader& reader, const Layout& layout, Address runtime,
                        Address interpreter) {
    layout_ = &layout;
    pages_->begin();
    list_ = kLists;
    const bool is_in_runtime = has(layout.runtime.gc_generations);
    if (!is_in_runtime && !has(layout.interpreter.gc_generations)) {
        return fail(ErrorKind::kNotReady, "walk the collector's lists: there are none");
    }
    const Address generations = is_in_runtime ? runtime + at(layout.runtime.gc_generations)
                                              : interpreter + at(layout.interpreter.gc_generations);
    collecting_ = is_in_runtime ? runtime + at(layout.runtime.gc_collecting)
                                : interpreter + at(layout.interpreter.gc_collecting);
    for (std::size_t i = 0; i + 1 < kLists; ++i) {
        heads_[i] = generations + i * at(layout.gc.generation_size);
    }
    heads_[kLists - 1] = generations + at(layout.gc.permanent);
    list_ = 0;
    repairs_left_ = kMaxRepairs;
    steps_ = 0;
    mark_at_ = 1;
    mark_ = Address();
    is_whole_ = true;
    note_collection(reader);
    begin_list(reader);
    return {};
}

void GcObjects::note_collection(MemoryReader& reader) {
    const auto collecting = reader.read_value<std::int32_t>(collecting_);
    is_whole_ = is_whole_ && collecting && *collecting == 0;
}

bool GcObjects::is_head(Address node) const {
    return std::find(heads_.begin(), heads_.end(), node) != heads_.end();
}

bool GcObjects::read_range(MemoryReader& reader, Address from, std::byte* into,
                           std::size_t size_bytes) {
    std::size_t done = 0;
    while (done < size_bytes) {
        const Address place = from + done;
        const Address page(place.value() & ~(kPageBytes - 1));
        const std::size_t size = std::min(kPageBytes - (place - page), size_bytes - done);
        const std::byte* copy = pages_->find(reader, page);
        if (copy == nullptr && pages_->page_count() != 0) {
            pages_->begin();  // full, perhaps
            copy = pages_->find(reader, page);
        }
        if (copy == nullptr) {
            return false;
        }
        std::memcpy(into + done, copy + (place - page), size);
        done += size;
    }
    return true;
}

bool GcObjects::read_node(MemoryReader& reader, Address node, Node* out) {
    std::array<std::byte, kMaxNodeBytes> copy;
    const std::size_t head_bytes = at(layout_->gc.head_size);
    const std::size_t type_at = head_bytes + at(layout_->object.ob_type);
    // Behind the head of a list stands no object.
    const std::size_t size = is_head(node) ? head_bytes : type_at + sizeof(void*);
    if (size > copy.size() || !node || !node.is_aligned(sizeof(void*)) ||
        !read_range(reader, node, copy.data(), size)) {
        return false;
    }
    out->next = Address(load_address(copy.data(), 0).value() & ~kFlags);
    out->previous = Address(load_address(copy.data(), sizeof(void*)).value() & ~kFlags);
    out->type = size == head_bytes ? Address() : load_address(copy.data(), type_at);
    return true;
}

/// Goes to the first object of the list at `list_`, or to that of a later one, where that one's
/// head cannot be read. False when there is none.
bool GcObjects::begin_list(MemoryReader& reader) {
    recent_count_ = 0;
    for (; list_ < kLists; ++list_) {
        Node head;
        if (read_node(reader, heads_[list_], &head) && head.next && head.previous) {
            previous_ = heads_[list_];
            node_ = head.next;
            return true;
        }
        is_whole_ = false;
    }
    return false;
}

/// Goes back to the last object that is in a list, as it stands now.
bool GcObjects::repair(MemoryReader& reader) {
    if (repairs_left_ == 0) {
        return false;
    }
    --repairs_left_;
    pages_->begin();
    for (; recent_count_ > 0; --recent_count_) {
        recent_end_ = (recent_end_ + kRecent - 1) % kRecent;
        const Address candidate = recent_[recent_end_];
        Node own;
        Node next;
        Node previous;
        if (read_node(reader, candidate, &own) && read_node(reader, own.next, &next) &&
            read_node(reader, own.previous, &previous) && next.previous == candidate &&
            previous.next == candidate) {
            recent_end_ = (recent_end_ + 1) % kRecent;
            previous_ = candidate;
            node_ = own.next;
            return true;
        }
    }
    return begin_list(reader);
}

bool GcObjects::walk(MemoryReader& reader, std::size_t max_objects,
                     FunctionRef<void(const Object&)> visit) {
    for (std::size_t i = 0; i < max_objects && list_ < kLists; ++i) {
        Node node;
        const bool is_read = read_node(reader, node_, &node) && node.previous == previous_;
        if (is_read && is_head(node_)) {
            // Its own, or that of the one that the objects have moved to.
            ++list_;
            begin_list(reader);
            continue;
        }
        if (!is_read || node_ == mark_) {
            if (!repair(reader)) {
                is_whole_ = false;
                ++list_;
                repairs_left_ = kMaxRepairs;
                begin_list(reader);
            }
            mark_ = Address();
            continue;
        }
        if (++steps_ == mark_at_) {
            mark_ = node_;
            mark_at_ *= 2;
        }
        visit({node_ + at(layout_->gc.head_size), node.type});
        recent_[recent_end_] = node_;
        recent_end_ = (recent_end_ + 1) % kRecent;
        recent_count_ = std::min(recent_count_ + 1, kRecent);
        previous_ = node_;
        node_ = node.next;
    }
    if (list_ < kLists) {
        return true;
    }
    note_collection(reader);
    return false;
}

}  // namespace echion::cpython
