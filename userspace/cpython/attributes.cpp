#include "cpython/attributes.h"

namespace echion::cpython {

namespace {

constexpr std::size_t kAnyNumber = DictKeys::kNotFound - 1;

/// Where one instance keeps its attributes: in a dict, or as values whose keys the class has, or
/// (both null) nowhere yet.
struct Namespace {
    Address dict{};
    Address values{};            // a PyDictValues
    std::size_t max_values = 0;  // how many it holds, where it says so
};

/// The words in front of an object and its first words, up to and with ob_type.
///
///      -4            -3            -2, -1     0           1
///      values 3.11   dict 3.11 on  GC head    ob_refcnt   ob_type
///
///      free-threaded:              -1         0        1, 2          3
///                                  dict       ob_tid   flags, counts ob_type
constexpr std::size_t kBytesBefore = 4 * sizeof(void*);
constexpr std::size_t kMostHeadBytes = 4 * sizeof(void*);
using Surroundings = std::array<std::byte, kBytesBefore + kMostHeadBytes>;

Address word_at(const Surroundings& copy, Offset offset_from_object) {
    return load_address(copy.data(), kBytesBefore + offset_from_object);
}

/// 3.13 and later: values in the object itself, while they are valid. A dict that was made of them
/// may go on using them or have copied them; either way the dict is asked then, not this.
Result<Namespace> find_inline_values(ObjectReader& objects, Address values) {
    const InstanceLayout& fields = objects.layout().instance;
    std::array<std::byte, 8> head;
    const auto head_bytes = static_cast<std::size_t>(fields.inline_valid) + 1;
    if (head_bytes > head.size()) {
        return fail(ErrorKind::kInvalid, "read an attribute: the layout");
    }
    if (auto status = objects.memory().read_bytes(values, head.data(), head_bytes); !status) {
        return tl::unexpected(status.error());
    }
    if (load<std::uint8_t>(head.data(), fields.inline_valid) == 0) {
        return Namespace{};
    }
    return Namespace{.values = values,
                     .max_values = load<std::uint8_t>(head.data(), fields.inline_capacity)};
}

/// A class that leaves the place of the namespace to the interpreter.
Result<Namespace> find_managed(ObjectReader& objects, Address object, const Surroundings& around,
                               const TypeFacts& type) {
    const InstanceLayout& fields = objects.layout().instance;
    switch (fields.kind) {
        case InstanceDictKind::kDictOffset:
            break;  // these versions have no managed dicts
        case InstanceDictKind::kManagedPreObject311: {
            const Address values = word_at(around, fields.managed_values);
            if (!values.is_null()) {
                return Namespace{.values = values, .max_values = kAnyNumber};
            }
            return Namespace{.dict = word_at(around, fields.managed_dict)};
        }
        case InstanceDictKind::kManagedPreObject312: {
            // One word for both; a pointer to values is stored less one.
            const Address word = word_at(around, fields.managed_dict);
            if ((word.value() & 1U) != 0) {
                return Namespace{.values = word + 1, .max_values = kAnyNumber};
            }
            return Namespace{.dict = word};
        }
        case InstanceDictKind::kInlineValues313:
        case InstanceDictKind::kInlineValues314: {
            const Address dict = word_at(around, fields.managed_dict);
            if (!dict.is_null() || (type.flags & fields.inline_values_flag) == 0) {
                return Namespace{.dict = dict};
            }
            const std::int64_t values_at = fields.kind == InstanceDictKind::kInlineValues313
                                               ? objects.layout().object.size
                                               : type.basic_size;
            if (values_at < objects.layout().object.size) {
                return fail(ErrorKind::kInvalid, "read an attribute: the class's size");
            }
            return find_inline_values(objects, object + static_cast<std::size_t>(values_at));
        }
    }
    return fail(ErrorKind::kInvalid, "read an attribute: the layout");
}

Result<Namespace> find_namespace(ObjectReader& objects, Address object, const Surroundings& around,
                                 const TypeFacts& type) {
    const Layout& layout = objects.layout();
    if ((type.flags & layout.instance.managed_dict_flag) != 0) {
        return find_managed(objects, object, around, type);
    }
    // A dict pointer in the object. Negative offsets (counted from the end of an object of
    // variable size) belong to subclasses of int, tuple and the like: not supported.
    if (type.dict_offset < layout.object.size || type.dict_offset >= type.basic_size) {
        return fail(ErrorKind::kInvalid, "read an attribute: the object keeps none");
    }
    auto dict = objects.memory().read_pointer(object + static_cast<std::size_t>(type.dict_offset));
    if (!dict) {
        return tl::unexpected(dict.error());
    }
    return Namespace{.dict = *dict};
}

}  // namespace

Result<AttributeFinder::KnownClass*> AttributeFinder::know_class(ObjectReader& objects,
                                                                 Address type) {
    for (KnownClass& known : classes_) {
        if (known.facts.type == type && !type.is_null()) {
            return &known;
        }
    }
    auto facts = objects.read_type(type);
    if (!facts) {
        return tl::unexpected(facts.error());
    }
    KnownClass& known = classes_[next_class_];
    next_class_ = (next_class_ + 1) % classes_.size();
    known = KnownClass{};
    known.facts = *facts;
    return &known;
}

Result<Address> AttributeFinder::find_in_values(ObjectReader& objects, KnownClass& known,
                                                Address values, std::size_t max_values) {
    const Layout& layout = objects.layout();
    if (known.of_class.index == DictKeys::kNotFound) {
        if ((known.facts.flags & kTypeHeap) == 0) {
            return fail(ErrorKind::kInvalid, "read an attribute: shared keys of a static type");
        }
        auto address = objects.memory().read_pointer(known.facts.type + layout.type.ht_cached_keys);
        if (!address) {
            return tl::unexpected(address.error());
        }
        auto keys = DictKeys::read(objects, *address);
        if (!keys) {
            return tl::unexpected(keys.error());
        }
        auto index = keys->find(objects, name_, &hint_);
        if (!index) {
            return tl::unexpected(index.error());
        }
        known.of_class = {*keys, *index};
    }
    const std::size_t index = known.of_class.index;
    if (index >= max_values) {  // kNotFound is above any number
        return Address();
    }
    return objects.memory().read_pointer(values + layout.instance.values_start +
                                         index * sizeof(void*));
}

Result<Address> AttributeFinder::find_in_dict(ObjectReader& objects, KnownClass& known,
                                              Address dict) {
    auto view = DictView::read(objects, dict, &known.of_dicts.keys);
    if (!view) {
        return tl::unexpected(view.error());
    }
    std::size_t index = known.of_dicts.index;
    if (index == DictKeys::kNotFound || view->keys().address() != known.of_dicts.keys.address()) {
        auto found = view->keys().find(objects, name_, &hint_);
        if (!found) {
            return tl::unexpected(found.error());
        }
        if (*found == DictKeys::kNotFound) {
            return Address();
        }
        index = *found;
        if (view->keys_are_shared()) {
            known.of_dicts = {view->keys(), index};
        }
    }
    return objects.memory().read_pointer(view->value_place(index));
}

Result<Address> AttributeFinder::find(ObjectReader& objects, Address object) {
    if (!is_object_address(object)) {
        return fail(ErrorKind::kInvalid, "read an attribute: not an object's address");
    }
    // Whether the words in front of the object belong to it, its class says. They are copied along
    // because they mostly do; where nothing is mapped in front of it, they do not.
    Surroundings around{};
    const std::size_t head_bytes =
        static_cast<std::size_t>(objects.layout().object.ob_type) + sizeof(void*);
    if (head_bytes > kMostHeadBytes) {
        return fail(ErrorKind::kInvalid, "read an attribute: the layout");
    }
    if (!objects.memory().read_bytes(object - kBytesBefore, around.data(),
                                     kBytesBefore + head_bytes)) {
        around = {};
        if (auto status =
                objects.memory().read_bytes(object, around.data() + kBytesBefore, head_bytes);
            !status) {
            return tl::unexpected(status.error());
        }
    }
    auto known = know_class(objects, word_at(around, objects.layout().object.ob_type));
    if (!known) {
        return tl::unexpected(known.error());
    }
    auto place = find_namespace(objects, object, around, (*known)->facts);
    if (!place) {
        return tl::unexpected(place.error());
    }
    if (!place->values.is_null()) {
        return find_in_values(objects, **known, place->values, place->max_values);
    }
    if (!place->dict.is_null()) {
        return find_in_dict(objects, **known, place->dict);
    }
    return Address();  // no attribute has been set yet
}

Result<Address> find_attribute(ObjectReader& objects, Address object, std::string_view name) {
    AttributeFinder finder(name);
    return finder.find(objects, object);
}

Result<Address> read_module_dict(ObjectReader& objects, Address module) {
    if (!is_object_address(module)) {
        return fail(ErrorKind::kInvalid, "read a module: not an object's address");
    }
    auto dict = objects.memory().read_pointer(module + objects.layout().module.md_dict);
    if (!dict) {
        return tl::unexpected(dict.error());
    }
    auto type = objects.read_type_of(*dict);
    if (!type) {
        return tl::unexpected(type.error());
    }
    // What sits in sys.modules need not be a module; that its first field is a dict will do.
    if (auto status = objects.check_type(*type, kTypeDict); !status) {
        return tl::unexpected(status.error());
    }
    return *dict;
}

Result<Address> find_module(ObjectReader& objects, Address modules, std::string_view name,
                            FindHint* hint) {
    auto table = DictView::read(objects, modules);
    if (!table) {
        return tl::unexpected(table.error());
    }
    return table->find(objects, name, hint);
}

Result<Address> find_global(ObjectReader& objects, Address module, std::string_view name,
                            FindHint* hint) {
    auto dict = read_module_dict(objects, module);
    if (!dict) {
        return tl::unexpected(dict.error());
    }
    return find_module(objects, *dict, name, hint);
}

}  // namespace echion::cpython
