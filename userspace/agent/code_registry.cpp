#include "agent/code_registry.h"

#include <algorithm>
#include <array>

#include "base/clock.h"
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
    auto text_index = AddressMap::make(kTextCapacity);
    auto texts = FixedArray<Text>::make(kTextEntries);
    auto scratch =
        FixedArray<std::byte>::make(stream::kMaxLineTableBytes + 3 * (stream::kMaxTextBytes + 8));
    auto compared = FixedArray<std::byte>::make(kTexts * (kMaxObjectHeadBytes + kComparedBytes));
    auto pending = FixedArray<std::uint32_t>::make(kEntries);
    auto defined = FixedArray<std::uint32_t>::make(kEntries);
    auto line_step = FixedArray<std::byte>::make(cpython::LineIndex::kStepBytes);
    if (!line_step || !index || !entries || !text_index || !texts || !scratch || !compared ||
        !pending || !defined) {
        return fail(ErrorKind::kNoSpace, "reserve memory for code objects");
    }
    registry.index_ = std::move(*index);
    registry.entries_ = std::move(*entries);
    registry.text_index_ = std::move(*text_index);
    registry.texts_ = std::move(*texts);
    registry.scratch_ = std::move(*scratch);
    registry.compared_ = std::move(*compared);
    registry.pending_ = std::move(*pending);
    registry.defined_ = std::move(*defined);
    registry.line_step_ = std::move(*line_step);
    return registry;
}

std::uint32_t CodeRegistry::find_id(MemoryReader& reader, stream::Encoder& encoder, Address code) {
    const std::uint32_t known = index_.find(code);
    Entry* entry = known == AddressMap::kNone ? insert(code) : &entries_[known];
    if (entry->is_defined && entry->look != look_) {
        Identity now{};
        settle(*entry, read_identity(reader, *entry, &now) && now == entry->identity
                           ? Comparison::kSame
                           : Comparison::kDifferent);
    }
    if (entry->is_defined) {
        return entry->id;
    }
    if (text_count_ + kTexts > kTextEntries) {
        ++counts_.table_full;
        clear();
        entry = insert(code);
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

void CodeRegistry::request(PageBatch& batch, std::span<const Address> codes) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
        if (i > 0 && codes[i] == codes[i - 1]) {
            continue;  // recursion
        }
        const std::uint32_t known = index_.find(codes[i]);
        if (known != AddressMap::kNone && !request_entry(batch, entries_[known])) {
            return;
        }
    }
}

bool CodeRegistry::request_entry(PageBatch& batch, Entry& entry) {
    if (!entry.is_defined || batch.is_of_this_round(entry.copy)) {
        return true;
    }
    if (is_static(Address(entry.code))) {
        entry.look = look_;
        return true;
    }
    if (batch.free_requests() <= PageBatch::kKeptRequests + kTexts) {
        return false;
    }
    for (const std::uint32_t place : entry.texts) {
        if (place != kNoText && !batch.is_of_this_round(texts_[place].copy)) {
            Text& text = texts_[place];
            text.copy = batch.add(text.from(), text.bytes());
        }
    }
    entry.copy = batch.add(Address(entry.code), at(view_.layout->code.size));
    return entry.copy != PageBatch::kNone;
}

CodeRegistry::Comparison CodeRegistry::compare(const PageBatch& batch, Entry& entry) {
    if (!batch.is_of_this_round(entry.copy)) {
        return Comparison::kNoCopy;
    }
    const std::byte* copy = batch.copy(entry.copy);
    if (copy == nullptr || !is_alive(copy) || hash_head(parse_code(copy)) != entry.identity.head) {
        return Comparison::kDifferent;
    }
    return entry.is_versioned ? Comparison::kSame : compare_texts(batch, entry);
}

CodeRegistry::Comparison CodeRegistry::compare_texts(const PageBatch& batch, const Entry& entry) {
    for (std::size_t i = 0; i < kTexts; ++i) {
        if (entry.texts[i] == kNoText) {
            continue;
        }
        Text& text = texts_[entry.texts[i]];
        if (text.look != look_) {
            if (!batch.is_of_this_round(text.copy)) {
                return Comparison::kNoCopy;
            }
            const std::byte* copy = batch.copy(text.copy);
            text.hash = copy == nullptr ? 0 : hash_text(copy, text);
            text.look = look_;
        }
        if (text.hash != entry.identity.texts[i]) {
            return Comparison::kDifferent;
        }
    }
    return Comparison::kSame;
}

void CodeRegistry::settle(Entry& entry, Comparison comparison) {
    ++counts_.revalidated;
    if (comparison == Comparison::kSame) {
        entry.look = look_;
    } else {
        ++counts_.replaced;
        entry.is_defined = false;  // find_id() reads it anew
        entry.has_been_another = true;
    }
}

void CodeRegistry::check(MemoryReader& reader, PageBatch& batch,
                         std::span<const cpython::RawFrame> frames) {
    std::size_t count = 0;
    for (std::size_t i = 0; i < frames.size(); ++i) {
        if (i > 0 && frames[i].code == frames[i - 1].code) {
            continue;  // recursion
        }
        const std::uint32_t known = index_.find(frames[i].code);
        if (known == AddressMap::kNone) {
            continue;
        }
        Entry& entry = entries_[known];
        if (!entry.is_defined || entry.look == look_) {
            continue;
        }
        if (is_static(frames[i].code)) {
            entry.look = look_;
            continue;
        }
        const Comparison comparison = compare(batch, entry);
        if (comparison != Comparison::kNoCopy) {
            settle(entry, comparison);
        } else if (count < pending_.capacity()) {
            pending_[count++] = known;
        }
    }
    for (std::size_t next = 0; next < count;) {
        std::size_t end = next;
        while (end < count && request_entry(batch, entries_[pending_[end]])) {
            ++end;
        }
        if (end == next) {
            if (batch.is_empty()) {
                break;  // no room even for one: find_id() reads them
            }
            batch.reset();
            continue;
        }
        batch.run(reader);
        for (; next < end; ++next) {
            Entry& entry = entries_[pending_[next]];
            if (entry.is_defined && entry.look != look_) {
                const Comparison comparison = compare(batch, entry);
                if (comparison != Comparison::kNoCopy) {
                    settle(entry, comparison);
                }
            }
        }
    }
}

bool CodeRegistry::were_known(std::span<const cpython::RawFrame> frames, std::int64_t at_ns) const {
    for (const cpython::RawFrame& frame : frames) {
        const std::uint32_t known = index_.find(frame.code);
        if (known == AddressMap::kNone) {
            return false;
        }
        const Entry& entry = entries_[known];
        if (!entry.is_defined || entry.look != look_ || entry.known_since_ns > at_ns) {
            return false;
        }
        // The same before and after: without a number of its own, another one may have been here
        // and gone in between. Where that has been seen, nothing is taken for granted.
        if (!entry.is_versioned && entry.has_been_another) {
            return false;
        }
    }
    return true;
}

std::uint64_t CodeRegistry::hash_head(const CodeFields& code) {
    const std::uintptr_t fields[] = {
        code.type.value(),
        code.texts[kName].value(),
        code.texts[kFilename].value(),
        code.texts[kLineTable].value(),
        code.texts[kQualname].value(),
        static_cast<std::uintptr_t>(code.first_line),
        code.version,
    };
    return mix(1, fields, sizeof(fields));
}

std::uint64_t CodeRegistry::hash_text(const std::byte* copy, const Text& text) {
    const std::uint64_t hash = mix(1, copy, sizeof(std::uintptr_t));  // the length
    return mix(hash, copy + (text.data_at - text.length_at), text.data_bytes);
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
    text_index_.clear();
    entry_count_ = 0;
    text_count_ = 0;
    defined_count_ = 0;
}

void CodeRegistry::renumber() {
    // No entry keeps an id that will soon be another's: each gets a new one when it is next used.
    for (std::uint32_t i = 0; i < entry_count_; ++i) {
        entries_[i].is_defined = false;
    }
    next_id_ = kUnknownCode + 1;
    ++numbering_;
}

void CodeRegistry::forget_batch() {
    for (std::size_t i = 0; i < defined_count_; ++i) {
        entries_[defined_[i]].is_defined = false;
    }
    defined_count_ = 0;
}

CodeRegistry::CodeFields CodeRegistry::parse_code(const std::byte* copy) const {
    const cpython::CodeLayout& fields = view_.layout->code;
    CodeFields code;
    code.type = load_address(copy, at(view_.layout->object.ob_type));
    code.texts[kName] = load_address(copy, at(fields.name));
    code.texts[kFilename] = load_address(copy, at(fields.filename));
    code.texts[kLineTable] = load_address(copy, at(fields.linetable));
    code.texts[kQualname] =
        has(fields.qualname) ? load_address(copy, at(fields.qualname)) : Address();
    code.first_line = load<std::int32_t>(copy, at(fields.firstlineno));
    code.version = has(fields.version) ? load<std::uint32_t>(copy, at(fields.version)) : 0;
    return code;
}

CodeRegistry::Text CodeRegistry::describe_str(const std::byte* head, Address object) const {
    const cpython::UnicodeLayout& fields = view_.layout->unicode;
    const auto length = load<std::uintptr_t>(head, at(fields.length));
    const auto state = load<std::uint32_t>(head, at(fields.state));
    const unsigned kind = (state >> fields.kind_shift) & ((1U << fields.kind_bits) - 1);
    const bool is_compact = ((state >> fields.compact_shift) & 1) != 0;
    const bool is_ascii = ((state >> fields.ascii_shift) & 1) != 0;
    Text text{};
    text.object = object.value();
    text.length_at = static_cast<std::uint16_t>(fields.length);
    text.data_at = static_cast<std::uint16_t>(is_ascii ? fields.ascii_data : fields.compact_data);
    if (is_compact) {
        text.data_bytes = static_cast<std::uint32_t>(std::min<std::uintptr_t>(
            std::min<std::uintptr_t>(length, kComparedBytes) * kind, kComparedBytes));
    }
    return text;
}

CodeRegistry::Text CodeRegistry::describe_bytes(std::uintptr_t size, Address object) const {
    const cpython::BytesLayout& fields = view_.layout->bytes;
    Text text{};
    text.object = object.value();
    text.length_at = static_cast<std::uint16_t>(fields.ob_size);
    text.data_at = static_cast<std::uint16_t>(fields.ob_sval);
    text.data_bytes = static_cast<std::uint32_t>(std::min<std::uintptr_t>(size, kComparedBytes));
    return text;
}

std::uint32_t CodeRegistry::place_text(const Text& text) {
    std::uint32_t place = text_index_.find(Address(text.object));
    if (place == AddressMap::kNone) {
        place = text_count_++;
        text_index_.set(Address(text.object), place);
    }
    texts_[place] = text;
    return place;
}

bool CodeRegistry::find_texts(MemoryReader& reader, const CodeFields& code, Entry& entry) {
    const cpython::Layout& layout = *view_.layout;
    std::array<std::byte, kTexts * kMaxObjectHeadBytes> heads;
    std::array<ReadRequest, kTexts> requests;
    std::size_t count = 0;
    const auto head_of = [&](std::size_t i) { return heads.data() + i * kMaxObjectHeadBytes; };
    std::fill(std::begin(entry.texts), std::end(entry.texts), kNoText);
    if (code.version != 0) {
        return true;  // its number says all
    }
    const std::size_t str_bytes = at(layout.unicode.ascii_data);
    const std::size_t bytes_bytes = at(layout.bytes.ob_sval);
    if (std::max(str_bytes, bytes_bytes) > kMaxObjectHeadBytes) {
        return false;
    }
    for (std::size_t i = 0; i < kTexts; ++i) {
        if (code.texts[i]) {
            requests[count++] = {code.texts[i], head_of(i),
                                 i == kLineTable ? bytes_bytes : str_bytes};
        }
    }
    if (reader.read({requests.data(), count}) != count) {
        return false;
    }
    for (std::size_t i = 0; i < kTexts; ++i) {
        if (!code.texts[i] || is_static(code.texts[i])) {
            continue;
        }
        entry.texts[i] = place_text(
            i == kLineTable
                ? describe_bytes(load<std::uintptr_t>(head_of(i), at(layout.bytes.ob_size)),
                                 code.texts[i])
                : describe_str(head_of(i), code.texts[i]));
    }
    return true;
}

bool CodeRegistry::read_identity(MemoryReader& reader, const Entry& entry, Identity* out) {
    std::array<std::byte, kMaxCodeHeadBytes> code_copy;
    std::array<ReadRequest, 1 + kTexts> requests;
    std::size_t count = 0;
    std::byte* next = compared_.data();
    for (const std::uint32_t place : entry.texts) {
        if (place != kNoText) {
            requests[count++] = {texts_[place].from(), next, texts_[place].bytes()};
            next += kMaxObjectHeadBytes + kComparedBytes;
        }
    }
    requests[count++] = {Address(entry.code), code_copy.data(), at(view_.layout->code.size)};
    if (reader.read({requests.data(), count}) != count || !is_alive(code_copy.data())) {
        return false;
    }
    const CodeFields code = parse_code(code_copy.data());
    *out = {};
    out->head = hash_head(code);
    next = compared_.data();
    for (std::size_t i = 0; i < kTexts; ++i) {
        if (entry.texts[i] != kNoText) {
            const Text& text = texts_[entry.texts[i]];
            if (code.texts[i].value() != text.object) {
                return false;
            }
            out->texts[i] = hash_text(next, text);
            next += kMaxObjectHeadBytes + kComparedBytes;
        }
    }
    return true;
}

CodeRegistry::LongTable* CodeRegistry::find_long_table(std::uintptr_t code) {
    for (LongTable& table : long_tables_) {
        if (table.code == code) {
            return &table;
        }
    }
    return nullptr;
}

bool CodeRegistry::begin_long_table(const Entry& entry, const CodeFields& code,
                                    std::uintptr_t size_bytes) {
    has_long_tables_ = true;
    LongTable* table = find_long_table(entry.code);
    for (LongTable& other : long_tables_) {
        const std::uint32_t known = index_.find(Address(other.code));
        const bool is_free = other.code == 0 || known == AddressMap::kNone ||
                             !entries_[known].is_defined || !entries_[known].has_long_table;
        table = table == nullptr && is_free ? &other : table;
    }
    if (table == nullptr) {
        return false;
    }
    if (table->code == 0) {
        auto index = cpython::LineIndex::make();
        if (!index) {
            return false;
        }
        table->index = std::move(*index);
    }
    table->code = entry.code;
    table->first_line = std::max(code.first_line, 0);
    table->index.begin(view_.layout->code.line_table_kind,
                       code.texts[kLineTable] + at(view_.layout->bytes.ob_sval), size_bytes,
                       code.first_line);
    return true;
}

std::int32_t CodeRegistry::find_place(MemoryReader& reader, Address code, std::int32_t offset) {
    if (!has_long_tables_) {
        return offset;
    }
    const std::uint32_t known = index_.find(code);
    if (known == AddressMap::kNone || !entries_[known].is_defined ||
        !entries_[known].has_long_table) {
        return offset;
    }
    using Outcome = cpython::LineIndex::Outcome;
    Outcome outcome = Outcome::kUnknown;
    std::int32_t line = 0;
    if (LongTable* table = find_long_table(code.value())) {
        const std::size_t budget = line_budget_bytes_;
        outcome = table->index.find(reader, {line_step_.data(), line_step_.capacity()}, offset,
                                    &line_budget_bytes_, &line);
        reads_ += line_budget_bytes_ != budget;
        if (outcome == Outcome::kFound && line == 0) {
            return table->first_line;  // an instruction without a line
        }
    }
    is_line_missing_ |= outcome == Outcome::kLater;
    counts_.lines_unknown += outcome != Outcome::kFound;
    return line;
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
    const std::int64_t since_ns = monotonic_ns();
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
    Identity before{};
    if (!find_texts(reader, code, entry) || !read_identity(reader, entry, &before)) {
        return false;
    }

    auto* texts = reinterpret_cast<char*>(scratch_.data());
    const std::string_view name =
        read_text(reader, code.texts[kName], {texts, stream::kMaxTextBytes});
    texts += stream::kMaxTextBytes;
    std::string_view qualname;
    if (code.texts[kQualname]) {
        qualname = read_text(reader, code.texts[kQualname], {texts, stream::kMaxTextBytes});
    }
    texts += stream::kMaxTextBytes;
    const std::string_view filename =
        read_text(reader, code.texts[kFilename], {texts, stream::kMaxTextBytes});
    texts += stream::kMaxTextBytes;
    // CPython 3.12 and 3.13, Python/specialize.c, _Py_InitCleanup: the one code object that is its
    // own file.
    if (code.texts[kFilename] == code.texts[kName] && code.texts[kQualname] == code.texts[kName] &&
        name == "__init__") {
        trampoline_ = Address(entry.code);
        return false;
    }
    auto* table = reinterpret_cast<std::byte*>(texts);
    std::uintptr_t table_size = 0;
    bool has_long_table = false;
    if (!reader.read_bytes(code.texts[kLineTable] + at(layout.bytes.ob_size), &table_size,
                           sizeof(table_size))) {
        table_size = 0;
        has_long_table = true;  // no line is known
        ++counts_.names_failed;
    } else if (table_size > stream::kMaxLineTableBytes) {
        has_long_table = true;
    } else if (!reader.read_bytes(code.texts[kLineTable] + at(layout.bytes.ob_sval), table,
                                  table_size)) {
        has_long_table = true;
        table_size = 0;
        ++counts_.names_failed;
    }
    Identity after{};
    if (!read_identity(reader, entry, &after) || after != before) {
        return false;  // another one by now: these texts may be of two
    }

    if (next_id_ == kMaxIds) {
        renumber();
    }
    entry.id = next_id_++;
    entry.known_since_ns = since_ns;
    entry.identity = before;
    entry.is_versioned = code.version != 0;
    entry.look = look_;
    entry.is_defined = true;
    entry.has_long_table = has_long_table;
    has_long_tables_ |= has_long_table;
    if (table_size > stream::kMaxLineTableBytes) {
        begin_long_table(entry, code, table_size);
        table_size = 0;
    } else if (LongTable* old = find_long_table(entry.code)) {
        old->code = 0;
    }
    for (std::size_t i = 0; i < kTexts; ++i) {
        if (entry.texts[i] != kNoText) {
            texts_[entry.texts[i]].hash = before.texts[i];
            texts_[entry.texts[i]].look = look_;
        }
    }
    if (defined_count_ < defined_.capacity()) {
        defined_[defined_count_++] = static_cast<std::uint32_t>(&entry - entries_.data());
    }
    const auto kind = has_long_table ? stream::CodeKind::kLines
                                     : static_cast<stream::CodeKind>(layout.code.line_table_kind);
    encoder.code(entry.id, kind, static_cast<std::uint32_t>(std::max(code.first_line, 0)), name,
                 qualname, filename, {table, table_size});
    return true;
}

}  // namespace echion::agent
