#include "cpython/gevent_links.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "cpython/containers.h"

namespace echion::cpython {
namespace {

constexpr std::size_t kFieldBytes = sizeof(void*);
// Classes between a class and gevent's.
constexpr int kMaxBasesToGevent = 16;
// From a greenlet to the one that waits for it: an object for each step.
constexpr int kMaxSteps = 6;
// Links that are looked at for one object, and those of one list.
constexpr std::size_t kMaxLinks = 1024;
constexpr std::size_t kMaxItems = 256;
// Fields of an object of gevent's.
constexpr std::size_t kMaxFields = 48;
// Of a collections.deque (Modules/_collectionsmodule.c): items in a block, behind a link.
constexpr std::size_t kDequeBlock = 64;
constexpr std::size_t kMaxTypeNameBytes = 64;

}  // namespace

struct GeventLinks::Search {
    ObjectReader& objects;
    Greenlets& greenlets;
    FunctionRef<bool(Address)> visit;
    std::size_t links_left = kMaxLinks;
    bool is_over = false;
    bool is_whole = true;

    /// Before each link; false: it is one too many.
    bool take_link() {
        is_over = is_over || links_left == 0;
        is_whole = is_whole && links_left != 0;
        links_left -= links_left != 0;
        return !is_over;
    }
};

Status GeventLinks::reserve() {
    auto known_types = FixedArray<KnownType>::make(kKnownTypes);
    if (!known_types) {
        return tl::unexpected(known_types.error());
    }
    known_types_ = std::move(*known_types);
    return {};
}

void GeventLinks::forget() {
    std::fill_n(known_types_.data(), known_types_.capacity(), KnownType{});
    links_.forget();
    empty_event_.forget();
    semaphore_.forget();
}

GeventLinks::KnownType GeventLinks::find_type(ObjectReader& objects, Address type) {
    const std::uintptr_t word = type.value() >> 4;
    KnownType& known = known_types_[(word ^ (word >> 10)) % kKnownTypes];
    if (known.type == type && type) {
        return known;
    }
    struct NamedKind {
        std::string_view name;
        Kind kind;
    };
    // "gevent._gevent_cevent.Event" compiled, "Event" as a class of Python.
    constexpr NamedKind kKinds[] = {
        {"Waiter", Kind::kWaiter},      {"AbstractLinkable", Kind::kLinkable},
        {"SimpleQueue", Kind::kQueue},  {"Queue", Kind::kQueue},
        {"Channel", Kind::kQueue},      {"SpawnedLink", Kind::kSpawnedLink},
        {"UnboundQueue", Kind::kQueue},
    };
    constexpr std::string_view kPackage = "gevent.";
    const TypeLayout& fields = objects.layout().type;
    KnownType found{type, Kind::kOther, false, 0};
    Address base = type;
    for (int i = 0; i < kMaxBasesToGevent && found.kind == Kind::kOther && is_object_address(base);
         ++i) {
        const Address name_at = read_word(objects, base + at(fields.tp_name));
        std::array<char, kMaxTypeNameBytes> text;
        const auto name = name_at ? read_c_string(objects.memory(), name_at, text)
                                  : Result<std::string_view>(std::string_view());
        const auto flags = objects.memory().read_value<std::uintptr_t>(base + at(fields.tp_flags));
        if (!name || !flags) {
            break;
        }
        const bool is_heap = (*flags & kTypeHeap) != 0;
        if (base == type) {
            found.is_heap = is_heap;
        }
        if (is_heap || name->starts_with(kPackage)) {
            const std::string_view last = name->substr(name->rfind('.') + 1);
            for (const NamedKind& named : kKinds) {
                found.kind = last == named.name ? named.kind : found.kind;
            }
        } else {
            break;  // a static type's bases are of the same package, or of no interest
        }
        base = read_word(objects, base + at(fields.tp_base));
    }
    const auto size = objects.memory().read_value<std::intptr_t>(type + at(fields.tp_basicsize));
    if (size && *size > 0) {
        found.size_bytes = static_cast<std::uint16_t>(
            std::min<std::intptr_t>(*size, static_cast<std::intptr_t>(kMaxFields * kFieldBytes)));
    }
    known = found;
    return found;
}

GeventLinks::KnownType GeventLinks::find_type_of(ObjectReader& objects, Address object) {
    const Address type = is_object_address(object)
                             ? read_word(objects, object + at(objects.layout().object.ob_type))
                             : Address();
    return is_object_address(type) ? find_type(objects, type) : KnownType{};
}

bool GeventLinks::is_waitable_type(ObjectReader& objects, Address type) {
    const Kind kind = find_type(objects, type).kind;
    return kind == Kind::kLinkable || kind == Kind::kQueue;
}

bool GeventLinks::visit_waiters(ObjectReader& objects, Greenlets& greenlets, Address object,
                                FunctionRef<bool(Address)> visit) {
    Search search{objects, greenlets, visit};
    search_object(search, object, 0);
    return search.is_whole;
}

/// Looks through all fields: for lists of links, and for a queue's deques.
void GeventLinks::search_object(Search& search, Address object, int depth) {
    if (depth == kMaxSteps) {
        search.is_whole = false;
        return;
    }
    ObjectReader& objects = search.objects;
    const KnownType type = find_type_of(objects, object);
    const bool is_greenlet = search.greenlets.is_greenlet(objects, object);
    if (!is_greenlet && type.kind != Kind::kLinkable && type.kind != Kind::kQueue) {
        return;
    }
    std::array<Address, kMaxFields> fields;
    const std::size_t head_words = at(objects.layout().object.size) / kFieldBytes;
    const std::size_t words = type.size_bytes / kFieldBytes;
    if (words <= head_words ||
        !objects.memory().read_bytes(object, fields.data(), words * kFieldBytes)) {
        return;
    }
    TypeKinds& kinds = search.greenlets.kinds();
    for (std::size_t i = head_words; i < words && !search.is_over; ++i) {
        const TypeKind kind = kinds.find(objects, fields[i]);
        if (kind == TypeKind::kList && type.kind != Kind::kQueue) {
            search_items(search, fields[i], depth);
        } else if (kind == TypeKind::kDeque && type.kind == Kind::kQueue) {
            search_deque(search, fields[i], depth);
        }
    }
    if (is_greenlet && !search.is_over) {
        search_queues(search, object, depth);
        // Of classes of Python.
        const auto links = links_.find(objects, object);
        if (links && *links && kinds.find(objects, *links) == TypeKind::kList) {
            search_items(search, *links, depth);
        }
    }
}

/// Looks for who waits for the results that a greenlet collects. It may have ended itself, as it
/// has begun all that there was to do. False when it collects none.
bool GeventLinks::search_queues(Search& search, Address greenlet, int depth) {
    ObjectReader& objects = search.objects;
    std::array<Address, kMaxFields> fields;
    const std::size_t words = find_type_of(objects, greenlet).size_bytes / kFieldBytes;
    if (!search.greenlets.is_greenlet(objects, greenlet) ||
        !objects.memory().read_bytes(greenlet, fields.data(), words * kFieldBytes)) {
        return false;
    }
    bool has_queue = false;
    for (std::size_t i = at(objects.layout().object.size) / kFieldBytes; i < words; ++i) {
        if (find_type_of(objects, fields[i]).kind == Kind::kQueue) {
            has_queue = true;
            search_object(search, fields[i], depth + 1);
        }
    }
    return has_queue;
}

void GeventLinks::search_items(Search& search, Address list, int depth) {
    std::array<Address, kMaxItems> items;
    const auto count = read_list(search.objects, list, items);
    if (!count) {
        search.is_whole = false;
        return;
    }
    search.is_whole = search.is_whole && *count <= items.size();
    for (std::size_t i = 0; i < std::min(*count, items.size()) && search.take_link(); ++i) {
        search_link(search, items[i], depth);
    }
}

/// The items of the first block.
void GeventLinks::search_deque(Search& search, Address deque, int depth) {
    ObjectReader& objects = search.objects;
    const std::size_t size_at = at(objects.layout().object.ob_size);
    MemoryReader& memory = objects.memory();
    const auto count = memory.read_value<std::intptr_t>(deque + size_at);
    const Address block = read_word(objects, deque + size_at + kFieldBytes);
    const auto first = memory.read_value<std::intptr_t>(deque + size_at + 3 * kFieldBytes);
    if (!count || !first || !is_object_address(block) || *first < 0 || *count < 0) {
        return;
    }
    std::size_t left = static_cast<std::size_t>(*count);
    for (auto i = static_cast<std::size_t>(*first); i < kDequeBlock && left > 0; ++i, --left) {
        if (!search.take_link()) {
            return;
        }
        search_link(search, read_word(objects, block + (i + 1) * kFieldBytes), depth);
    }
    search.is_whole = search.is_whole && left == 0;
}

void GeventLinks::search_link(Search& search, Address link, int depth) {
    ObjectReader& objects = search.objects;
    const Layout& layout = objects.layout();
    switch (search.greenlets.kinds().find(objects, link)) {
        case TypeKind::kMethod: {
            const Address self = read_word(objects, link + at(layout.method.self));
            if (!search_queues(search, self, depth)) {
                search_self(search, self, depth);
            }
            return;
        }
        case TypeKind::kBuiltin:
            search_self(search, read_word(objects, link + at(layout.builtin.self)), depth);
            return;
        default:
            break;
    }
    const KnownType type = find_type_of(objects, link);
    if (type.kind == Kind::kSpawnedLink) {
        // Its field is what it calls in a greenlet of its own.
        const Address callback = read_word(objects, link + at(layout.object.size));
        for (const Address field :
             {callback, read_word(objects, link + at(layout.object.size) + kFieldBytes)}) {
            search_self(search, field, depth);
        }
        return;
    }
    search_self(search, link, depth);
}

void GeventLinks::search_self(Search& search, Address self, int depth) {
    ObjectReader& objects = search.objects;
    if (search.is_over || !is_object_address(self)) {
        return;
    }
    if (search.greenlets.is_greenlet(objects, self)) {
        search.is_over = !search.visit(self);
        return;
    }
    const KnownType type = find_type_of(objects, self);
    if (type.kind == Kind::kWaiter) {
        const Address greenlet = find_greenlet(search, self, type);
        search.is_over = greenlet && !search.visit(greenlet);
        return;
    }
    if (type.kind != Kind::kOther) {
        search_object(search, self, depth + 1);
        return;
    }
    for (AttributeFinder* finder : {&empty_event_, &semaphore_}) {
        const auto event = type.is_heap ? finder->find(objects, self) : Result<Address>(Address());
        if (event && *event) {
            search_object(search, *event, depth + 1);
        }
    }
}

/// The greenlet of a Waiter: the field beside the hub's, behind it where it is compiled; in front
/// of it where it is a class of Python, whose slots are in alphabetical order.
Address GeventLinks::find_greenlet(Search& search, Address waiter, const KnownType& type) {
    ObjectReader& objects = search.objects;
    std::array<Address, kMaxFields> fields;
    const std::size_t head_words = at(objects.layout().object.size) / kFieldBytes;
    const std::size_t words = type.size_bytes / kFieldBytes;
    if (words <= head_words ||
        !objects.memory().read_bytes(waiter, fields.data(), words * kFieldBytes)) {
        return {};
    }
    const auto is_greenlet = [&](std::size_t i) {
        return search.greenlets.is_greenlet(objects, fields[i]);
    };
    for (std::size_t i = head_words; i + 1 < words; ++i) {
        const bool is_pair = is_greenlet(i) && is_greenlet(i + 1);
        if (is_pair) {
            return fields[search.greenlets.is_hub(objects, fields[i]) ? i + 1 : i];
        }
    }
    return {};
}

}  // namespace echion::cpython
