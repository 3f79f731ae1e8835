#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpython/layout.h"
#include "cpython/objects.h"
#include "test_memory.h"

namespace echion::test {

/// Builds CPython objects in a TestMemory, as the version of `layout` keeps them.
class FakeObjects {
  public:
    using Layout = cpython::Layout;
    using Items = std::vector<std::pair<Address, Address>>;

    FakeObjects(TestMemory& memory, const Layout& layout) : memory_(memory), layout_(layout) {
        str_type = make_type(cpython::kTypeUnicode);
        bytes_type = make_type(cpython::kTypeBytes);
        int_type = make_type(cpython::kTypeLong);
        dict_type = make_type(cpython::kTypeDict);
        module_type = make_type(0);
    }

    Address str_type, bytes_type, int_type, dict_type, module_type;

    /// A static type, unless `flags` says heap.
    Address make_type(std::uintptr_t flags, std::intptr_t basic_size = 32,
                      std::intptr_t dict_offset = 0) {
        const cpython::TypeLayout& fields = layout_.type;
        const Address type = memory_.allocate(fields.ht_cached_keys + sizeof(void*));
        memory_.write(type + fields.tp_flags, flags | cpython::kTypeReady);
        memory_.write(type + fields.tp_basicsize, basic_size);
        memory_.write(type + fields.tp_dictoffset, dict_offset);
        return type;
    }

    /// A compact str. `kind` 1, 2 or 4; ASCII if it says so.
    Address make_str(const std::vector<std::uint32_t>& points, int kind, bool ascii,
                     Address type = {}) {
        const cpython::UnicodeLayout& fields = layout_.unicode;
        const std::size_t start = ascii ? fields.ascii_data : fields.compact_data;
        const Address str = memory_.allocate(start + (points.size() + 1) * kind);
        memory_.write(str + layout_.object.ob_type, type ? type : str_type);
        memory_.write(str + fields.length, static_cast<std::intptr_t>(points.size()));
        memory_.write(str + fields.state, unicode_state(kind, true, ascii));
        write_points(str + start, points, kind);
        return str;
    }

    Address make_str(std::string_view ascii) {
        return make_str(std::vector<std::uint32_t>(ascii.begin(), ascii.end()), 1, true);
    }

    /// A str whose data is elsewhere, as instances of subclasses have it.
    Address make_str_apart(const std::vector<std::uint32_t>& points, int kind) {
        const cpython::UnicodeLayout& fields = layout_.unicode;
        const Address data = memory_.allocate((points.size() + 1) * kind);
        const Address str = memory_.allocate(fields.data_any + sizeof(void*));
        memory_.write(str + layout_.object.ob_type, str_type);
        memory_.write(str + fields.length, static_cast<std::intptr_t>(points.size()));
        memory_.write(str + fields.state, unicode_state(kind, false, false));
        memory_.write(str + fields.data_any, data);
        write_points(data, points, kind);
        return str;
    }

    [[nodiscard]] std::uint32_t unicode_state(int kind, bool compact, bool ascii) const {
        const cpython::UnicodeLayout& fields = layout_.unicode;
        return static_cast<std::uint32_t>(kind) << fields.kind_shift |
               static_cast<std::uint32_t>(compact) << fields.compact_shift |
               static_cast<std::uint32_t>(ascii) << fields.ascii_shift;
    }

    struct Code {
        Address type, name, file, line_table;
        std::int32_t first_line = 1;
        std::uint32_t version = 0;  ///< where this version of CPython has one
    };
    /// Writes a code object's fields; `qualname` is the name.
    void write_code(Address code, const Code& fields) {
        const cpython::CodeLayout& layout = layout_.code;
        // Its count of references.
        if (cpython::has(layout_.object.ob_ref_local)) {
            memory_.write(code + cpython::at(layout_.object.ob_ref_local), std::uint32_t{1});
        } else {
            memory_.write(code, std::uintptr_t{1});
        }
        memory_.write(code + cpython::at(layout_.object.ob_type), fields.type);
        memory_.write(code + cpython::at(layout.name), fields.name);
        if (cpython::has(layout.qualname)) {
            memory_.write(code + cpython::at(layout.qualname), fields.name);
        }
        memory_.write(code + cpython::at(layout.filename), fields.file);
        memory_.write(code + cpython::at(layout.linetable), fields.line_table);
        memory_.write(code + cpython::at(layout.firstlineno), fields.first_line);
        if (cpython::has(layout.version)) {
            memory_.write(code + cpython::at(layout.version), fields.version);
        }
    }

    Address make_bytes(std::string_view content) {
        const Address bytes = memory_.allocate(layout_.bytes.ob_sval + content.size() + 1);
        memory_.write(bytes + layout_.object.ob_type, bytes_type);
        memory_.write(bytes + layout_.bytes.ob_size, static_cast<std::intptr_t>(content.size()));
        memory_.write_bytes(bytes + layout_.bytes.ob_sval, content.data(), content.size());
        return bytes;
    }

    Address make_int(std::uint64_t value) {
        const cpython::IntegerLayout& fields = layout_.integer;
        const Address number = memory_.allocate(fields.ob_digit + 5 * fields.digit_bytes);
        memory_.write(number + layout_.object.ob_type, int_type);
        std::intptr_t digits = 0;
        for (std::uint64_t rest = value; rest != 0; rest >>= fields.digit_bits) {
            const std::uint64_t digit = rest & ((std::uint64_t{1} << fields.digit_bits) - 1);
            memory_.write_bytes(number + fields.ob_digit + digits * fields.digit_bytes, &digit,
                                fields.digit_bytes);
            ++digits;
        }
        if (cpython::has(fields.lv_tag)) {
            memory_.write(number + fields.lv_tag,
                          static_cast<std::uintptr_t>(digits) << 3 | (digits == 0 ? 1U : 0U));
        } else {
            memory_.write(number + fields.ob_size, digits);
        }
        return number;
    }

    /// Keys with room for `room` entries. `unicode`: entries without hashes, where the version has
    /// them. A null key or value makes a hole.
    Address make_keys(const Items& items, bool unicode, bool split = false) {
        const cpython::DictKeysLayout& fields = layout_.dict_keys;
        const bool has_kinds = cpython::has(fields.dk_kind);
        const bool short_entries = has_kinds && (unicode || split);
        std::size_t log2_slots = 3;
        while ((std::size_t{1} << log2_slots) * 2 / 3 < items.size()) {
            ++log2_slots;
        }
        const std::size_t slots = std::size_t{1} << log2_slots;
        const std::size_t slot_bytes = slots <= 0xff ? 1 : slots <= 0xffff ? 2 : 4;
        const std::size_t entry_bytes =
            short_entries ? fields.unicode_entry_size : fields.general_entry_size;
        const Address keys = memory_.allocate(fields.dk_indices + slots * slot_bytes +
                                              (slots * 2 / 3 + 1) * entry_bytes);
        if (has_kinds) {
            std::size_t log2_bytes = log2_slots;
            for (std::size_t bytes = slot_bytes; bytes > 1; bytes /= 2) {
                ++log2_bytes;
            }
            memory_.write(keys + fields.dk_log2_size, static_cast<std::uint8_t>(log2_slots));
            memory_.write(keys + fields.dk_log2_index_bytes, static_cast<std::uint8_t>(log2_bytes));
            memory_.write(keys + fields.dk_kind, static_cast<std::uint8_t>(split     ? 2
                                                                           : unicode ? 1
                                                                                     : 0));
        } else {
            memory_.write(keys + fields.dk_size, static_cast<std::intptr_t>(slots));
        }
        memory_.write(keys + fields.dk_nentries, static_cast<std::intptr_t>(items.size()));
        Address entry = keys + fields.dk_indices + slots * slot_bytes;
        for (const auto& [key, value] : items) {
            memory_.write(
                entry + (short_entries ? fields.unicode_entry_key : fields.general_entry_key), key);
            memory_.write(
                entry + (short_entries ? fields.unicode_entry_value : fields.general_entry_value),
                value);
            entry = entry + entry_bytes;
        }
        return keys;
    }

    Address make_dict(const Items& items, bool unicode = true) {
        std::intptr_t used = 0;
        for (const auto& item : items) {
            used += item.second.is_null() ? 0 : 1;
        }
        return make_dict_of(make_keys(items, unicode), Address(), used);
    }

    /// A dict that shares `keys`, with values of its own.
    Address make_split_dict(Address keys, const std::vector<Address>& values) {
        std::intptr_t used = 0;
        for (const Address value : values) {
            used += value.is_null() ? 0 : 1;
        }
        return make_dict_of(keys, make_values(values), used);
    }

    Address make_values(const std::vector<Address>& values) {
        const std::size_t start = values_start();
        const Address at = memory_.allocate(start + values.size() * sizeof(void*));
        write_values(at, values);
        return at;
    }

    Address make_dict_of(Address keys, Address values, std::intptr_t used) {
        const Address dict = memory_.allocate(layout_.dict.size);
        memory_.write(dict + layout_.object.ob_type, dict_type);
        memory_.write(dict + layout_.dict.ma_used, used);
        memory_.write(dict + layout_.dict.ma_keys, keys);
        memory_.write(dict + layout_.dict.ma_values, values);
        return dict;
    }

    Address make_module(Address dict) {
        const Address module = memory_.allocate(layout_.module.md_dict + sizeof(void*));
        memory_.write(module + layout_.object.ob_type, module_type);
        memory_.write(module + layout_.module.md_dict, dict);
        return module;
    }

    /// A class whose instances keep their attributes the way that this version likes best, with
    /// these keys shared by them.
    Address make_class(Address shared_keys) {
        const cpython::InstanceLayout& fields = layout_.instance;
        const bool managed = fields.managed_dict_flag != 0;
        const Address type =
            make_type(cpython::kTypeHeap | fields.managed_dict_flag | fields.inline_values_flag,
                      managed ? kManagedBasicSize : 32, managed ? -1 : 16);
        memory_.write(type + layout_.type.ht_cached_keys, shared_keys);
        return type;
    }

    /// An instance of make_class()'s, with values for the shared keys and no dict where the version
    /// can do without.
    Address make_instance(Address type, Address shared_keys, const std::vector<Address>& values) {
        const cpython::InstanceLayout& fields = layout_.instance;
        const Address object = make_bare_instance(type, values.size());
        switch (fields.kind) {
            case cpython::InstanceDictKind::kDictOffset:
                memory_.write(object + 16, make_split_dict(shared_keys, values));
                break;
            case cpython::InstanceDictKind::kManagedPreObject311:
                memory_.write(object + fields.managed_values, make_values(values));
                break;
            case cpython::InstanceDictKind::kManagedPreObject312:
                memory_.write(object + fields.managed_dict, make_values(values) - 1);
                break;
            case cpython::InstanceDictKind::kInlineValues313:
                write_values(object + layout_.object.size, values);
                break;
            case cpython::InstanceDictKind::kInlineValues314:
                write_values(object + kManagedBasicSize, values);
                break;
        }
        return object;
    }

    /// An instance whose attributes are in `dict`.
    Address make_instance_with_dict(Address type, Address dict) {
        const cpython::InstanceLayout& fields = layout_.instance;
        const Address object = make_bare_instance(type, 0);
        memory_.write(object + (fields.managed_dict_flag != 0 ? fields.managed_dict : 16), dict);
        return object;
    }

  private:
    // Of a class whose instances have fields of their own in front of their values (3.14).
    static constexpr std::intptr_t kManagedBasicSize = 32;

    [[nodiscard]] std::size_t values_start() const {
        const Offset start = layout_.instance.values_start;
        return cpython::has(start) ? start : 0;
    }
    using Offset = cpython::Offset;

    Address make_bare_instance(Address type, std::size_t values) {
        constexpr std::size_t kBefore = 4 * sizeof(void*);
        const Address object =
            memory_.allocate(kBefore + 32 + (values + 1) * sizeof(void*)) + kBefore;
        memory_.write(object + layout_.object.ob_type, type);
        return object;
    }

    void write_values(Address at, const std::vector<Address>& values) {
        if (cpython::has(layout_.instance.inline_valid)) {
            memory_.write(at + layout_.instance.inline_capacity,
                          static_cast<std::uint8_t>(values.size()));
            memory_.write(at + layout_.instance.inline_valid, std::uint8_t{1});
        }
        for (std::size_t i = 0; i < values.size(); ++i) {
            memory_.write(at + values_start() + i * sizeof(void*), values[i]);
        }
    }

    void write_points(Address at, const std::vector<std::uint32_t>& points, int kind) {
        for (std::size_t i = 0; i < points.size(); ++i) {
            memory_.write_bytes(at + i * kind, &points[i], kind);
        }
    }

    TestMemory& memory_;
    const Layout& layout_;
};

}  // namespace echion::test
