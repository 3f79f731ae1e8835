#include "cpython/dicts.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace echion::cpython {

namespace {

/// dk_kind of 3.11 and later: what an entry looks like.
constexpr std::uint8_t kGeneralKeys = 0;
constexpr std::uint8_t kSplitKeys = 2;

/// Bytes of one slot of the hash index before 3.11 (DK_IXSIZE in Objects/dictobject.c).
std::size_t index_slot_bytes(std::size_t slots) {
    if (slots <= 0xff) {
        return 1;
    }
    return slots <= 0xffff ? 2 : 4;
}

/// Whether the local copy of a str's head and first bytes is the ASCII text `text`. Its type is
/// checked by the caller.
bool is_text(const Layout& layout, std::span<const std::byte> copy, std::string_view text) {
    auto head = parse_unicode_head(layout, Address(), copy);
    return head && head->ascii && head->compact && head->length == text.size() &&
           std::memcmp(copy.data() + layout.unicode.ascii_data, text.data(), text.size()) == 0;
}

/// Room for a str's head and kMaxFindKeyBytes of text.
constexpr std::size_t kKeyCopyBytes = 48 + kMaxFindKeyBytes;

}  // namespace

Result<DictKeys> DictKeys::read(ObjectReader& objects, Address keys) {
    const DictKeysLayout& fields = objects.layout().dict_keys;
    std::array<std::byte, 64> head;
    const std::size_t head_bytes = fields.dk_indices;
    if (!is_object_address(keys) || head_bytes > head.size()) {
        return fail(ErrorKind::kInvalid, "read a dict: its keys' address");
    }
    if (auto status = objects.memory().read_bytes(keys, head.data(), head_bytes); !status) {
        return tl::unexpected(status.error());
    }

    std::size_t slots = 0;
    std::size_t index_bytes = 0;
    bool unicode_entries = false;
    DictKeys view;
    view.address_ = keys;
    if (has(fields.dk_log2_size)) {
        const auto log2_size = load<std::uint8_t>(head.data(), fields.dk_log2_size);
        const auto log2_bytes = load<std::uint8_t>(head.data(), fields.dk_log2_index_bytes);
        const auto kind = load<std::uint8_t>(head.data(), fields.dk_kind);
        constexpr std::uint8_t kMaxLog2 = 30;
        if (log2_size > kMaxLog2 || log2_bytes > kMaxLog2 + 1 || kind > kSplitKeys) {
            return fail(ErrorKind::kInvalid, "read a dict: its keys");
        }
        slots = std::size_t{1} << log2_size;
        index_bytes = static_cast<std::size_t>(std::uint64_t{1} << log2_bytes);
        unicode_entries = kind != kGeneralKeys;
        view.split_ = kind == kSplitKeys;
    } else {
        const auto size = load<std::intptr_t>(head.data(), fields.dk_size);
        const bool power_of_two = size > 0 && (size & (size - 1)) == 0;
        if (!power_of_two || static_cast<std::size_t>(size) > kMaxObjectLength) {
            return fail(ErrorKind::kInvalid, "read a dict: its keys");
        }
        slots = static_cast<std::size_t>(size);
        index_bytes = slots * index_slot_bytes(slots);
    }
    const auto count = load<std::intptr_t>(head.data(), fields.dk_nentries);
    if (count < 0 || static_cast<std::size_t>(count) > slots) {
        return fail(ErrorKind::kInvalid, "read a dict: its number of entries");
    }
    view.count_ = static_cast<std::size_t>(count);
    view.entries_ = keys + head_bytes + index_bytes;
    view.entry_bytes_ = unicode_entries ? fields.unicode_entry_size : fields.general_entry_size;
    view.key_offset_ = unicode_entries ? fields.unicode_entry_key : fields.general_entry_key;
    view.value_offset_ = unicode_entries ? fields.unicode_entry_value : fields.general_entry_value;
    return view;
}

Result<bool> DictKeys::holds(ObjectReader& objects, std::size_t index, std::string_view key) const {
    auto object = objects.memory().read_pointer(entries_ + index * entry_bytes_ + key_offset_);
    if (!object || !is_object_address(*object)) {
        return false;
    }
    std::array<std::byte, kKeyCopyBytes> copy;
    const std::size_t bytes = objects.layout().unicode.ascii_data + key.size();
    if (!objects.memory().read_bytes(*object, copy.data(), bytes)) {
        return false;
    }
    return is_text(objects.layout(), {copy.data(), bytes}, key) &&
           objects.check_type(load_address(copy.data(), objects.layout().object.ob_type),
                              kTypeUnicode);
}

Result<std::size_t> DictKeys::find(ObjectReader& objects, std::string_view key,
                                   FindHint* hint) const {
    const Layout& layout = objects.layout();
    const std::size_t copy_bytes = layout.unicode.ascii_data + key.size();
    if (key.size() > kMaxFindKeyBytes || copy_bytes > kKeyCopyBytes) {
        return fail(ErrorKind::kBoundExceeded, "find a key: it is too long");
    }
    if (hint != nullptr && hint->index < count_) {
        auto found = holds(objects, hint->index, key);
        if (found && *found) {
            return hint->index;
        }
    }
    if (count_ > kMaxFindEntries) {
        return fail(ErrorKind::kBoundExceeded, "find a key: too many entries");
    }

    // A batch of entries, then the heads of their keys. A head that cannot be read in this length
    // belongs to a shorter string, so it is not the one.
    constexpr std::size_t kBatch = 32;
    std::array<std::byte, kBatch * kMaxDictEntryBytes> entries;
    std::array<std::byte, kBatch * kKeyCopyBytes> copies;
    std::array<ReadRequest, kBatch> requests;
    std::array<std::size_t, kBatch> indices;
    std::array<bool, kBatch> copied;
    for (std::size_t from = 0; from < count_; from += kBatch) {
        const std::size_t batch = std::min(kBatch, count_ - from);
        if (auto status = objects.memory().read_bytes(entries_ + from * entry_bytes_,
                                                      entries.data(), batch * entry_bytes_);
            !status) {
            return tl::unexpected(status.error());
        }
        std::size_t wanted = 0;
        for (std::size_t i = 0; i < batch; ++i) {
            const Address object = load_address(entries.data(), i * entry_bytes_ + key_offset_);
            if (is_object_address(object)) {
                requests[wanted] = {object, copies.data() + wanted * kKeyCopyBytes, copy_bytes};
                indices[wanted] = from + i;
                ++wanted;
            }
        }
        read_each(objects.memory(), {requests.data(), wanted}, {copied.data(), wanted});
        for (std::size_t i = 0; i < wanted; ++i) {
            const std::byte* copy = copies.data() + i * kKeyCopyBytes;
            if (copied[i] && is_text(layout, {copy, copy_bytes}, key) &&
                objects.check_type(load_address(copy, layout.object.ob_type), kTypeUnicode)) {
                if (hint != nullptr) {
                    hint->index = indices[i];
                }
                return indices[i];
            }
        }
    }
    return kNotFound;
}

Result<DictView> DictView::read(ObjectReader& objects, Address dict, const DictKeys* known) {
    const Layout& layout = objects.layout();
    std::array<std::byte, 64> copy;
    const std::size_t size = layout.dict.size;
    if (!is_object_address(dict) || size > copy.size()) {
        return fail(ErrorKind::kInvalid, "read a dict: not an object's address");
    }
    if (auto status = objects.memory().read_bytes(dict, copy.data(), size); !status) {
        return tl::unexpected(status.error());
    }
    const Address type = load_address(copy.data(), layout.object.ob_type);
    if (auto status = objects.check_type(type, kTypeDict); !status) {
        return tl::unexpected(status.error());
    }
    const auto used = load<std::intptr_t>(copy.data(), layout.dict.ma_used);
    const Address keys_address = load_address(copy.data(), layout.dict.ma_keys);
    const bool is_known = known != nullptr && known->address() == keys_address;
    auto keys = is_known ? Result<DictKeys>(*known) : DictKeys::read(objects, keys_address);
    if (!keys) {
        return tl::unexpected(keys.error());
    }
    if (used < 0 || static_cast<std::size_t>(used) > keys->count()) {
        return fail(ErrorKind::kTorn, "read a dict: its length is not that of its keys");
    }
    DictView view;
    view.keys_ = *keys;
    view.used_ = static_cast<std::size_t>(used);
    const Address values = load_address(copy.data(), layout.dict.ma_values);
    if (!values.is_null()) {
        const Offset start = layout.instance.values_start;
        view.values_ = values + (has(start) ? start : 0);
    } else if (keys->is_split()) {
        return fail(ErrorKind::kTorn, "read a dict: shared keys without values");
    }
    return view;
}

Result<std::size_t> DictView::read_entries(ObjectReader& objects, std::size_t from,
                                           std::span<Entry> into) const {
    constexpr std::size_t kBatch = kMaxDictEntriesPerRead;
    std::array<std::byte, kBatch * kMaxDictEntryBytes> entries;
    std::array<std::uintptr_t, kBatch> values;
    std::size_t done = 0;
    while (done < into.size() && from + done < keys_.count()) {
        const std::size_t first = from + done;
        const std::size_t batch = std::min({kBatch, into.size() - done, keys_.count() - first});
        const ReadRequest requests[] = {
            {keys_.entries() + first * keys_.entry_bytes(), entries.data(),
             batch * keys_.entry_bytes()},
            {values_ + first * sizeof(void*), values.data(), batch * sizeof(void*)}};
        const std::size_t wanted = values_.is_null() ? 1 : 2;
        if (objects.memory().read({requests, wanted}) != wanted) {
            return fail(ErrorKind::kUnreadable, "read a dict: its entries");
        }
        for (std::size_t i = 0; i < batch; ++i) {
            const std::size_t entry = i * keys_.entry_bytes();
            into[done + i].key = load_address(entries.data(), entry + keys_.key_offset());
            into[done + i].value = values_.is_null()
                                       ? load_address(entries.data(), entry + keys_.value_offset())
                                       : Address(values[i]);
        }
        done += batch;
    }
    return done;
}

Address DictView::value_place(std::size_t index) const {
    return values_.is_null() ? keys_.entries() + index * keys_.entry_bytes() + keys_.value_offset()
                             : values_ + index * sizeof(void*);
}

Result<Address> DictView::find(ObjectReader& objects, std::string_view key, FindHint* hint) const {
    auto index = keys_.find(objects, key, hint);
    if (!index) {
        return tl::unexpected(index.error());
    }
    if (*index == DictKeys::kNotFound) {
        return Address();
    }
    return objects.memory().read_pointer(value_place(*index));
}

}  // namespace echion::cpython
