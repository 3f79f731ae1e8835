#include "cpython/type_kinds.h"

#include <array>
#include <string_view>

namespace echion::cpython {
namespace {

// Classes between a class and CPython's that it is made of.
constexpr int kMaxBases = 16;
constexpr std::size_t kMaxTypeNameBytes = 32;

struct NamedKind {
    std::string_view name;  // tp_name
    TypeKind kind;
    bool may_be_heap;  // a static type in no version that has heap types of its module
};

// Source: tp_name in Objects/{genobject,funcobject,classobject,methodobject,frameobject,listobject,
// setobject,iterobject}.c, Modules/{_asynciomodule,
// _collectionsmodule,_functoolsmodule}.c, 3.8 to 3.15.
constexpr NamedKind kKinds[] = {
    {"coroutine", TypeKind::kCoroutine, false},
    {"generator", TypeKind::kGenerator, false},
    {"async_generator", TypeKind::kAsyncGenerator, false},
    {"coroutine_wrapper", TypeKind::kDriver, false},
    {"async_generator_asend", TypeKind::kDriver, false},
    {"async_generator_athrow", TypeKind::kDriver, false},
    {"anext_awaitable", TypeKind::kDriver, false},
    {"_asyncio.FutureIter", TypeKind::kFutureIterator, true},
    {"function", TypeKind::kFunction, false},
    {"method", TypeKind::kMethod, false},
    {"frame", TypeKind::kFrame, false},
    {"builtin_function_or_method", TypeKind::kBuiltin, false},
    {"functools.partial", TypeKind::kPartial, true},
    {"TaskWakeupMethWrapper", TypeKind::kTaskWakeup, false},
    {"list", TypeKind::kList, false},
    {"collections.deque", TypeKind::kDeque, true},
    {"set", TypeKind::kSet, false},
    {"WeakSet", TypeKind::kWeakSet, true},
    {"_asyncio.Future", TypeKind::kFuture, true},
    {"_asyncio.Task", TypeKind::kTask, true},
};

TypeKind find_by_name(ObjectReader& objects, Address type, std::uintptr_t flags) {
    const auto name = objects.memory().read_pointer(type + at(objects.layout().type.tp_name));
    std::array<char, kMaxTypeNameBytes> text;
    const auto found = name && *name ? read_c_string(objects.memory(), *name, text)
                                     : Result<std::string_view>(std::string_view());
    if (!found) {
        return TypeKind::kOther;
    }
    for (const NamedKind& known : kKinds) {
        if (*found == known.name && (known.may_be_heap || (flags & kTypeHeap) == 0)) {
            return known.kind;
        }
    }
    return TypeKind::kOther;
}

}  // namespace

TypeKind TypeKinds::find(ObjectReader& objects, Address object) {
    if (!is_object_address(object)) {
        return TypeKind::kOther;
    }
    const auto type = objects.read_type_of(object);
    return type ? find_of_type(objects, *type) : TypeKind::kOther;
}

TypeKind TypeKinds::find_of_type(ObjectReader& objects, Address type) {
    // Types are far apart: what is above their alignment, folded.
    const std::uintptr_t word = type.value() >> 4;
    Known& known = known_[(word ^ (word >> 8) ^ (word >> 16)) % kKnown];
    if (known.type == type && type) {
        return known.kind;
    }
    TypeKind kind = TypeKind::kOther;
    bool is_heap = true;
    Address base = type;
    for (int i = 0; i < kMaxBases && kind == TypeKind::kOther && is_object_address(base); ++i) {
        // Not all of CPython's static types bear the flag of one that is ready (3.8 to 3.10).
        const TypeLayout& fields = objects.layout().type;
        const auto flags = objects.memory().read_value<std::uintptr_t>(base + at(fields.tp_flags));
        const auto size =
            objects.memory().read_value<std::intptr_t>(base + at(fields.tp_basicsize));
        if (!flags || !size) {
            break;
        }
        if (base == type) {
            is_heap = (*flags & kTypeHeap) != 0;
        }
        kind = find_by_name(objects, base, *flags);
        const TaskLayout& task = objects.layout().task;
        if ((kind == TypeKind::kTask && *size != task.size) ||
            (kind == TypeKind::kFuture && *size != task.future_size)) {
            kind = TypeKind::kOther;
            break;  // another module's of that name
        }
        if (kind != TypeKind::kOther || (*flags & kTypeHeap) == 0) {
            break;  // a static type's bases are of no interest
        }
        const auto next = objects.memory().read_pointer(base + at(objects.layout().type.tp_base));
        base = next ? *next : Address();
    }
    known = {type, kind, is_heap};
    return kind;
}

void TypeKinds::forget_heap_types() {
    for (Known& known : known_) {
        if (known.is_heap) {
            known = {};
        }
    }
}

}  // namespace echion::cpython
