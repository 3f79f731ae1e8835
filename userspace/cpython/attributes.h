#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "base/error.h"
#include "cpython/dicts.h"
#include "cpython/objects.h"
#include "memory/address.h"

namespace echion::cpython {

/// Finds one attribute, by name, in instances of Python classes: what an instance keeps in its own
/// namespace. Neither the class nor descriptors are asked. All ways of keeping attributes are
/// known: a dict, values that share their keys with the class (3.11, 3.12), values inside the
/// object (3.13), and each of these after a dict has been made of it.
///
/// What it learns of classes serves the instances that follow, so that many instances of one class
/// cost two to four reads each; forget() before the target has had time to change its classes.
class AttributeFinder {
  public:
    /// `name`: ASCII, at most kMaxFindKeyBytes, outlives this.
    explicit AttributeFinder(std::string_view name) : name_(name) {}

    /// The attribute's value; null when the instance has none.
    /// Errors: those of ObjectReader and DictKeys::find.
    Result<Address> find(ObjectReader& objects, Address object);

    void forget() { classes_ = {}; }

  private:
    /// Keys that several instances use, and where the attribute is among them.
    struct KnownKeys {
        DictKeys keys;
        std::size_t index = DictKeys::kNotFound;
    };
    struct KnownClass {
        TypeFacts facts;
        KnownKeys of_class;  // for values without a dict
        KnownKeys of_dicts;  // of the last dict that shared its keys
    };

    Result<KnownClass*> know_class(ObjectReader& objects, Address type);
    Result<Address> find_in_values(ObjectReader& objects, KnownClass& known, Address values,
                                   std::size_t max_values);
    Result<Address> find_in_dict(ObjectReader& objects, KnownClass& known, Address dict);

    std::string_view name_;
    FindHint hint_;
    std::array<KnownClass, 4> classes_{};
    std::size_t next_class_ = 0;
};

/// One attribute of one instance, as AttributeFinder finds it.
Result<Address> find_attribute(ObjectReader& objects, Address object, std::string_view name);

/// The namespace of a module: its dict.
Result<Address> read_module_dict(ObjectReader& objects, Address module);

/// The object under `name` in a module table (sys.modules); null when there is none.
Result<Address> find_module(ObjectReader& objects, Address modules, std::string_view name,
                            FindHint* hint = nullptr);

/// The global variable `name` of a module; null when there is none.
Result<Address> find_global(ObjectReader& objects, Address module, std::string_view name,
                            FindHint* hint = nullptr);

}  // namespace echion::cpython
