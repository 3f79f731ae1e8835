#include "agent/code_registry.h"

#include <algorithm>
#include <array>

#include "cpython/objects.h"

namespace echion::agent {
namespace {

using cpython::has;
using cpython::Offset;

constexpr std::size_t kMaxCodeHeadBytes = 512;
constexpr std::size_t kMaxObjectHeadBytes = 128;

std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

// Whether an object has an owner. Freed memory starts with the allocator's link to the next free
// block, or null (Objects/obmalloc.c, malloc), where an object has its count of references: a
// number that is small, or that of immortal objects (Include/object.h, _Py_IMMORTAL_REFCNT
// in 3.12).
bool is_alive(const std::byte* object_copy) {
    const auto references = load<std::uintptr_t>(object_copy, 0);
    return references != 0 && references <= 0xffff'ffffU;
}

// Mixes bytes into a running hash. Not for tables with hostile keys: a target that forges a
// collision gets a wrong name for its own function.
std::uint64_t mix(std::uint64_t hash, const void* bytes, std::size_t size) {
    const auto* p = static_cast<const std::byte*>(bytes);
    while (size > 0) {
        std::uint64_t word = 0;
        const std::size_t part = std::min(size, sizeof(word));
        std::memcpy(&word, p, part);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 29;
        p += part;
        size -= part;
    }
    return hash;
}

}  // namespace

Result<CodeRegistry> CodeRegistry::make(const cpython::RuntimeView& view) {
    CodeRegistry registry;
    registry.view_ = view;
    auto index = AddressMap::make(kCapacity);
    auto entries = FixedArray<Entry>::make(kEntries);
    auto scratch =
        FixedArray<std::byte>::make(stream::kMaxLineTableBytes + 3 * (stream::kMaxTextBytes + 8));
    auto defined = FixedArray<std::uint32_t>::make(kEntries);
    if (!index || !entries || !scratch || !defined) {
        return fail(ErrorKind::kNoSpace, "reserve memory for code objects");
    }
    registry.index_ = std::move(*index);
    registry.entries_ = std::move(*entries);
    registry.scratch_ = std::move(*scratch);
    registry.defined_ = std::move(*defined);
    return registry;
}

std::uint32_t CodeRegistry::find_id(MemoryReader& reader, stream::Encoder& encoder, Address code,
                                    bool* fresh) {
    const std::uint32_t known = index_.find(code);
    Entry* entry = known == AddressMap::kNone ? insert(code) : &entries_[known];
    if (known != AddressMap::kNone && entry->is_defined) {
        const std::int64_t age_ns = now_ns_ - entry->checked_ns;
        if (age_ns < kSoftAgeNs) {
            return entry->id;
        }
        if (age_ns < kHardAgeNs && checks_left_ == 0) {
            *fresh = false;
            return entry->id;
        }
        checks_left_ -= checks_left_ > 0;
        ++counts_.revalidated;
        std::uint64_t identity = 0;
        if (read_fingerprint(reader, *entry, &identity) == entry->fingerprint) {
            entry->checked_ns = entry->glanced_ns = now_ns_;
            return entry->id;
        }
        ++counts_.replaced;
        ++epoch_;
    }
    if (!define(reader, encoder, *entry)) {
        ++counts_.names_failed;
        index_.erase(code);
        if (entry == &entries_[entry_count_ - 1]) {
            --entry_count_;
        }
        return kUnknownCode;
    }
    return entry->id;
}

bool CodeRegistry::glance(MemoryReader& reader, std::span<const cpython::RawFrame> frames) {
    const std::size_t size = at(view_.layout->code.size);
    std::array<std::byte, kMaxGlances * kMaxCodeHeadBytes> copies;
    std::array<ReadRequest, kMaxGlances> requests;
    std::array<Entry*, kMaxGlances> entries;
    bool all_seen = true;
    if (size > kMaxCodeHeadBytes) {
        return all_seen;
    }
    for (std::size_t next = 0; next < frames.size();) {
        std::size_t count = 0;
        for (; next < frames.size() && count < kMaxGlances; ++next) {
            const std::uint32_t known = index_.find(frames[next].code);
            if (known == AddressMap::kNone) {
                continue;
            }
            Entry& entry = entries_[known];
            if (!entry.is_defined) {
                continue;
            }
            if (now_ns_ - entry.glanced_ns < kGlanceAgeNs) {
                all_seen = all_seen && entry.glanced_ns == now_ns_;
                continue;
            }
            entry.glanced_ns = now_ns_;
            entries[count] = &entry;
            requests[count] = {frames[next].code, copies.data() + count * size, size};
            ++count;
        }
        if (count == 0) {
            break;
        }
        const std::size_t read = reader.read({requests.data(), count});
        for (std::size_t i = 0; i < count; ++i) {
            ++counts_.revalidated;
            if (i >= read ||
                hash_identity(parse_code(copies.data() + i * size)) != entries[i]->identity) {
                ++counts_.replaced;
                ++epoch_;
                entries[i]->is_defined = false;  // find_id() looks at it anew
            }
        }
    }
    return all_seen;
}

std::uint64_t CodeRegistry::hash_identity(const CodeFields& code) {
    const std::uintptr_t identity[] = {
        code.type.value(),     code.filename.value(),  code.name.value(),
        code.qualname.value(), code.linetable.value(), static_cast<std::uintptr_t>(code.first_line),
    };
    return mix(1, identity, sizeof(identity));
}

CodeRegistry::Entry* CodeRegistry::insert(Address code) {
    if (entry_count_ == kEntries) {
        ++counts_.table_full;
        clear();
    }
    Entry& entry = entries_[entry_count_];
    entry = {};
    entry.code = code.value();
    index_.set(code, entry_count_);
    ++entry_count_;
    return &entry;
}

void CodeRegistry::clear() {
    index_.clear();
    entry_count_ = 0;
    defined_count_ = 0;
    ++epoch_;
}

void CodeRegistry::renumber() {
    // No entry keeps an id that will soon be another's: each gets a new one when it is next used.
    for (std::uint32_t i = 0; i < entry_count_; ++i) {
        entries_[i].is_defined = false;
    }
    next_id_ = kUnknownCode + 1;
    ++numbering_;
    ++epoch_;
}

void CodeRegistry::forget_batch() {
    for (std::size_t i = 0; i < defined_count_; ++i) {
        entries_[defined_[i]].is_defined = false;
    }
    defined_count_ = 0;
    ++epoch_;
}

CodeRegistry::CodeFields CodeRegistry::parse_code(const std::byte* copy) const {
    const cpython::CodeLayout& fields = view_.layout->code;
    CodeFields code;
    code.type = load_address(copy, at(view_.layout->object.ob_type));
    code.filename = load_address(copy, at(fields.filename));
    code.name = load_address(copy, at(fields.name));
    code.qualname = has(fields.qualname) ? load_address(copy, at(fields.qualname)) : Address();
    code.linetable = load_address(copy, at(fields.linetable));
    code.first_line = load<std::int32_t>(copy, at(fields.firstlineno));
    return code;
}

CodeRegistry::Span CodeRegistry::find_name_span(const std::byte* unicode_head,
                                                Address object) const {
    const cpython::UnicodeLayout& fields = view_.layout->unicode;
    const auto length = load<std::uintptr_t>(unicode_head, at(fields.length));
    const auto state = load<std::uint32_t>(unicode_head, at(fields.state));
    const unsigned kind = (state >> fields.kind_shift) & ((1U << fields.kind_bits) - 1);
    const bool is_compact = ((state >> fields.compact_shift) & 1) != 0;
    const bool is_ascii = ((state >> fields.ascii_shift) & 1) != 0;
    Span span{};
    span.object = object.value();
    span.length_at = static_cast<std::uint16_t>(fields.length);
    span.data_at = static_cast<std::uint16_t>(is_ascii ? fields.ascii_data : fields.compact_data);
    if (is_compact) {
        span.data_bytes = static_cast<std::uint16_t>(std::min<std::uintptr_t>(
            std::min<std::uintptr_t>(length, kComparedBytes) * kind, kComparedBytes));
    }
    return span;
}

std::uint64_t CodeRegistry::read_fingerprint(MemoryReader& reader, const Entry& entry,
                                             std::uint64_t* identity) {
    std::array<std::byte, kMaxCodeHeadBytes> code_copy;
    std::array<std::byte, kMaxObjectHeadBytes + kComparedBytes> name_copy;
    std::array<std::byte, kMaxObjectHeadBytes + kComparedBytes> table_copy;
    const std::size_t name_bytes = entry.name.data_at + entry.name.data_bytes;
    const std::size_t table_bytes = entry.table.data_at + entry.table.data_bytes;
    const ReadRequest requests[] = {
        {Address(entry.code), code_copy.data(), at(view_.layout->code.size)},
        {Address(entry.name.object), name_copy.data(), name_bytes},
        {Address(entry.table.object), table_copy.data(), table_bytes},
    };
    if (reader.read(requests) != std::size(requests)) {
        return 0;
    }
    const CodeFields code = parse_code(code_copy.data());
    if (!is_alive(code_copy.data()) || code.name.value() != entry.name.object ||
        code.linetable.value() != entry.table.object) {
        return 0;
    }
    *identity = hash_identity(code);
    const std::uintptr_t lengths[] = {
        load<std::uintptr_t>(name_copy.data(), entry.name.length_at),
        load<std::uintptr_t>(table_copy.data(), entry.table.length_at),
    };
    std::uint64_t hash = mix(*identity, lengths, sizeof(lengths));
    hash = mix(hash, name_copy.data() + entry.name.data_at, entry.name.data_bytes);
    hash = mix(hash, table_copy.data() + entry.table.data_at, entry.table.data_bytes);
    return hash == 0 ? 1 : hash;
}

std::string_view CodeRegistry::read_text(MemoryReader& reader, Address object,
                                         std::span<char> into) {
    const auto text = cpython::ObjectReader(reader, *view_.layout).read_unicode(object, into);
    if (!text) {
        ++counts_.names_failed;
        return {};
    }
    return text->utf8;
}

bool CodeRegistry::define(MemoryReader& reader, stream::Encoder& encoder, Entry& entry) {
    const cpython::Layout& layout = *view_.layout;
    std::array<std::byte, kMaxCodeHeadBytes> code_copy;
    ++reads_;
    if (at(layout.code.size) > code_copy.size() ||
        !reader.read_bytes(Address(entry.code), code_copy.data(), at(layout.code.size))) {
        return false;
    }
    const CodeFields code = parse_code(code_copy.data());
    if (view_.code_type && code.type != view_.code_type) {
        return false;
    }

    std::array<std::byte, kMaxObjectHeadBytes> name_head;
    std::uintptr_t table_size = 0;
    const std::size_t name_head_bytes = at(layout.unicode.ascii_data);
    const ReadRequest heads[] = {
        {code.name, name_head.data(), name_head_bytes},
        {code.linetable + at(layout.bytes.ob_size), &table_size, sizeof(table_size)},
    };
    if (name_head_bytes > name_head.size() || reader.read(heads) != std::size(heads)) {
        return false;
    }
    entry.name = find_name_span(name_head.data(), code.name);
    entry.table = {
        code.linetable.value(), static_cast<std::uint16_t>(layout.bytes.ob_size),
        static_cast<std::uint16_t>(layout.bytes.ob_sval),
        static_cast<std::uint16_t>(std::min<std::uintptr_t>(table_size, kComparedBytes))};
    entry.fingerprint = read_fingerprint(reader, entry, &entry.identity);
    if (entry.fingerprint == 0) {
        return false;
    }

    auto* texts = reinterpret_cast<char*>(scratch_.data());
    const std::string_view name = read_text(reader, code.name, {texts, stream::kMaxTextBytes});
    texts += stream::kMaxTextBytes;
    std::string_view qualname;
    if (code.qualname) {
        qualname = read_text(reader, code.qualname, {texts, stream::kMaxTextBytes});
    }
    texts += stream::kMaxTextBytes;
    const std::string_view filename =
        read_text(reader, code.filename, {texts, stream::kMaxTextBytes});
    texts += stream::kMaxTextBytes;
    // CPython 3.12 and 3.13, Python/specialize.c, _Py_InitCleanup: the one code object that is its
    // own file.
    if (code.filename == code.name && code.qualname == code.name && name == "__init__") {
        trampoline_ = Address(entry.code);
        ++epoch_;
        return false;
    }
    auto* table = reinterpret_cast<std::byte*>(texts);
    if (table_size > stream::kMaxLineTableBytes ||
        !reader.read_bytes(code.linetable + at(layout.bytes.ob_sval), table, table_size)) {
        table_size = 0;  // the first line then stands for all
        ++counts_.names_failed;
    }
    std::uint64_t identity = 0;
    if (read_fingerprint(reader, entry, &identity) != entry.fingerprint) {
        return false;  // another one by now: these texts may be of two
    }

    if (next_id_ == kMaxIds) {
        renumber();
    }
    entry.id = next_id_++;
    entry.checked_ns = entry.glanced_ns = now_ns_;
    entry.is_defined = true;
    if (defined_count_ < defined_.capacity()) {
        defined_[defined_count_++] = static_cast<std::uint32_t>(&entry - entries_.data());
    }
    const auto kind = static_cast<stream::CodeKind>(layout.code.line_table_kind);
    encoder.code(entry.id, kind, static_cast<std::uint32_t>(std::max(code.first_line, 0)), name,
                 qualname, filename, {table, table_size});
    return true;
}

}  // namespace echion::agent
