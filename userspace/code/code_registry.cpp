#include "code/code_registry.h"

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "cpython/objects.h"

namespace echion::code {
namespace {

using cpython::at;
using cpython::has;
using cpython::Offset;

constexpr std::size_t kMaxCodeHeadBytes = 512;
constexpr std::size_t kMaxObjectHeadBytes = 128;
// Where code objects come and go at one address, one of them is mostly found there in less.
constexpr std::int64_t kDoubtNs = kNanosPerSecond;

// Whether an object has an owner. In a free-threaded build its counts of references stay in freed
// memory as they were at its end (Include/refcount.h, Objects/object.c,
// _Py_MergeZeroLocalRefcount); counts that change while they are copied may look so, too, and cost
// another look. Else freed memory starts with the allocator's link to the next free block, or null
// (Objects/obmalloc.c, malloc), where an object has its count of references: a number that is
// small, or that of immortal objects (Include/object.h, _Py_IMMORTAL_REFCNT in 3.12). The uppermost
// 16 bits are flags from 3.14 on (_PyObject.ob_flags), and 0 in an address.
bool is_alive(const cpython::ObjectLayout& fields, const std::byte* object_copy) {
    if (has(fields.ob_ref_local)) {
        constexpr std::uint32_t kImmortal = UINT32_MAX;
        constexpr int kSharedShift = 2;
        const auto local = load<std::uint32_t>(object_copy, at(fields.ob_ref_local));
        const auto shared = load<std::int64_t>(object_copy, at(fields.ob_ref_shared));
        return local == kImmortal || std::int64_t{local} + (shared >> kSharedShift) > 0;
    }
    constexpr auto kCount = static_cast<std::uintptr_t>(0xffff'ffff'ffffULL);
    const auto references = load<std::uintptr_t>(object_copy, 0) & kCount;
    return references != 0 && references <= 0xffff'ffffU;
}

// Mixes bytes into a running hash. Not for tables with hostile keys: a target that forges a
// collision gets a wrong name for its own function.
std::uint64_t mix_word(std::uint64_t hash, std::uint64_t word) {
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
    return hash ^ hash >> 29;
}

std::uint64_t mix(std::uint64_t hash, const std::byte* bytes, std::size_t size) {
    for (; size >= sizeof(std::uint64_t); size -= sizeof(std::uint64_t)) {
        hash = mix_word(hash, load<std::uint64_t>(bytes, 0));
        bytes += sizeof(std::uint64_t);
    }
    std::uint64_t rest = 0;
    for (std::size_t i = 0; i < size; ++i) {
        rest = rest << 8 | std::to_integer<std::uint64_t>(bytes[i]);
    }
    return mix_word(hash, rest);
}

}  // namespace

Result<CodeRegistry> CodeRegistry::make(const cpython::RuntimeView& view, std::size_t capacity) {
    // An address map holds three quarters of its capacity.
    const std::size_t entry_limit = capacity / 4 * 3 - 1;
    const std::size_t text_capacity = 2 * capacity;
    const std::size_t text_limit = text_capacity / 4 * 3 - 1;
    CodeRegistry registry;
    registry.max_ids_ = static_cast<std::uint32_t>(2 * capacity);
    registry.view_ = view;
    const cpython::CodeLayout& code = view.layout->code;
    const auto end_of = [](Offset offset, std::size_t size_bytes) {
        return has(offset) ? at(offset) + size_bytes : 0;
    };
    const std::size_t pointer_bytes = view.layout->pointer_bytes;
    registry.versioned_bytes_ = std::max(end_of(view.layout->object.ob_type, pointer_bytes),
                                         end_of(code.version, sizeof(std::uint32_t)));
    registry.head_bytes_ = std::max(
        {registry.versioned_bytes_, end_of(code.name, pointer_bytes),
         end_of(code.filename, pointer_bytes), end_of(code.linetable, pointer_bytes),
         end_of(code.qualname, pointer_bytes), end_of(code.firstlineno, sizeof(std::int32_t))});
    auto index = AddressMap::make(capacity);
    auto entries = FixedArray<Entry>::make(entry_limit);
    auto text_index = AddressMap::make(text_capacity);
    auto texts = FixedArray<Text>::make(text_limit);
    auto page_index = AddressMap::make(text_capacity);
    auto pages = FixedArray<Page>::make(text_limit);
    auto asked = FixedArray<std::uint32_t>::make(PageBatch::kMaxRequests);
    auto scratch = FixedArray<std::byte>::make(kMaxTableBytes + 3 * (kMaxTextBytes + 8));
    auto compared = FixedArray<std::byte>::make(kTexts * (kMaxObjectHeadBytes + kComparedBytes));
    auto pending = FixedArray<std::uint32_t>::make(entry_limit);
    auto defined = FixedArray<std::uint32_t>::make(entry_limit);
    auto line_step = FixedArray<std::byte>::make(cpython::LineIndex::kStepBytes);
    if (!page_index || !pages || !asked || !line_step || !index || !entries || !text_index ||
        !texts || !scratch || !compared || !pending || !defined) {
        return fail(ErrorKind::kNoSpace, "reserve memory for code objects");
    }
    registry.index_ = std::move(*index);
    registry.entries_ = std::move(*entries);
    registry.text_index_ = std::move(*text_index);
    registry.texts_ = std::move(*texts);
    registry.page_index_ = std::move(*page_index);
    registry.pages_ = std::move(*pages);
    registry.asked_ = std::move(*asked);
    registry.scratch_ = std::move(*scratch);
    registry.compared_ = std::move(*compared);
    registry.pending_ = std::move(*pending);
    registry.defined_ = std::move(*defined);
    registry.line_step_ = std::move(*line_step);
    return registry;
}

std::uint32_t CodeRegistry::find_id(MemoryReader& reader, CodeSink& sink, Address code) {
    const std::uint32_t known = find_entry(code);
    Entry* entry = known == AddressMap::kNone ? insert(code) : &entries_[known];
    if (entry->is_defined && !is_checked(*entry)) {
        Identity now{};
        settle(*entry, read_identity(reader, *entry, &now) && now == entry->identity
                           ? Comparison::kSame
                           : Comparison::kDifferent);
    }
    if (entry->is_defined) {
        return entry->id;
    }
    if (text_count_ + kTexts > texts_.capacity()) {
        ++counts_.table_full;
        clear();
        entry = insert(code);
    }
    if (!define(reader, sink, *entry)) {
        ++counts_.names_failed;
        index_.erase(code);
        lookup_of(code) = {};
        if (entry == &entries_[entry_count_ - 1]) {
            --entry_count_;
        }
        return kUnknownCode;
    }
    return entry->id;
}

std::uint32_t CodeRegistry::find_entry(Address code) const {
    Lookup& lookup = lookup_of(code);
    if (lookup.code != code.value() || lookup.code == 0) {
        lookup = {code.value(), index_.find(code)};
    }
    return lookup.entry;
}

void CodeRegistry::request(PageBatch& batch, std::span<const Address> codes) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
        if (i > 0 && codes[i] == codes[i - 1]) {
            continue;  // recursion
        }
        const std::uint32_t known = find_entry(codes[i]);
        if (known != AddressMap::kNone && !is_covered(entries_[known]) &&
            !ask(batch, entries_[known])) {
            return;
        }
    }
}

CodeRegistry::Place CodeRegistry::place_of(Address from, std::size_t size_bytes) {
    const std::uintptr_t page = from.value() & ~(kPageBytes - 1);
    if (from.value() + size_bytes > page + kPageBytes) {
        return {kNoPage, PageBatch::kNone};
    }
    std::uint32_t index = page_index_.find(Address(page));
    if (index == AddressMap::kNone) {
        if (page_count_ == pages_.capacity()) {
            return {kNoPage, PageBatch::kNone};
        }
        index = page_count_++;
        pages_[index] = {page, 0, 0, 0, PageBatch::kNone};
        page_index_.set(Address(page), index);
    }
    return {index, PageBatch::kNone};
}

std::size_t CodeRegistry::compared_bytes(const Entry& entry) const {
    return entry.is_versioned ? versioned_bytes_ : head_bytes_;
}

void CodeRegistry::begin_asking() {
    ++asking_;
    asked_count_ = 0;
}

bool CodeRegistry::ask(PageBatch& batch, Entry& entry) {
    if (!entry.is_defined || entry.asking == asking_) {
        return true;
    }
    if (is_static(Address(entry.code))) {
        entry.look = look_;
        return true;
    }
    if (asked_count_ + kTexts + 1 > asked_.capacity() ||
        batch.free_requests() <= PageBatch::kKeptRequests + asked_count_ + kTexts) {
        return false;
    }
    for (const std::uint32_t index : entry.texts) {
        if (index != kNoText) {
            Text& text = texts_[index];
            ask_for(batch, text.place, text.from(), text.bytes());
        }
    }
    ask_for(batch, entry.place, Address(entry.code), compared_bytes(entry));
    entry.asking = asking_;
    return true;
}

void CodeRegistry::ask_for(PageBatch& batch, Place& place, Address from, std::size_t size_bytes) {
    if (place.page == kNoPage) {
        if (!batch.is_of_this_round(place.own)) {
            place.own = batch.add(from, size_bytes);
        }
        return;
    }
    Page& page = pages_[place.page];
    const auto begin = static_cast<std::uint16_t>(from.value() - page.address);
    const auto end = static_cast<std::uint16_t>(begin + size_bytes);
    if (page.asking != asking_) {
        page.asking = asking_;
        page.from = begin;
        page.end = end;
        asked_[asked_count_++] = place.page;
    } else {
        page.from = std::min(page.from, begin);
        page.end = std::max(page.end, end);
    }
}

void CodeRegistry::add_requested(PageBatch& batch) {
    for (std::size_t i = 0; i < asked_count_; ++i) {
        Page& page = pages_[asked_[i]];
        page.copy = batch.add(Address(page.address + page.from),
                              static_cast<std::size_t>(page.end - page.from));
    }
}

bool CodeRegistry::find_copy(const PageBatch& batch, const Place& place, Address from,
                             std::size_t size_bytes, const std::byte** copy) const {
    if (place.page == kNoPage) {
        *copy = batch.copy(place.own);
        return batch.is_of_this_round(place.own);
    }
    const Page& page = pages_[place.page];
    const std::size_t offset = from.value() - page.address;
    if (page.asking != asking_ || !batch.is_of_this_round(page.copy) || offset < page.from ||
        offset + size_bytes > page.end) {
        return false;
    }
    const std::byte* part = batch.copy(page.copy);
    *copy = part == nullptr ? nullptr : part + (offset - page.from);
    return true;
}

CodeRegistry::Comparison CodeRegistry::compare(const PageBatch& batch, const Entry& entry) {
    const std::byte* copy = nullptr;
    if (entry.asking != asking_ ||
        !find_copy(batch, entry.place, Address(entry.code), compared_bytes(entry), &copy)) {
        return Comparison::kNoCopy;
    }
    if (copy == nullptr || !is_alive(view_.layout->object, copy)) {
        return Comparison::kDifferent;
    }
    if (entry.is_versioned) {
        const auto version = load<std::uint32_t>(copy, at(view_.layout->code.version));
        const Address type = load_address(copy, at(view_.layout->object.ob_type));
        return version == entry.identity.head.version && type == entry.identity.head.type
                   ? Comparison::kSame
                   : Comparison::kDifferent;
    }
    return parse_code(copy) == entry.identity.head ? compare_texts(batch, entry)
                                                   : Comparison::kDifferent;
}

CodeRegistry::Comparison CodeRegistry::compare_texts(const PageBatch& batch, const Entry& entry) {
    for (std::size_t i = 0; i < kTexts; ++i) {
        if (entry.texts[i] == kNoText) {
            continue;
        }
        Text& text = texts_[entry.texts[i]];
        if (text.look != look_) {
            const std::byte* copy = nullptr;
            if (!find_copy(batch, text.place, text.from(), text.bytes(), &copy)) {
                return Comparison::kNoCopy;
            }
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
        entry.replaced_ns = monotonic_ns();
    }
}

void CodeRegistry::check(MemoryReader& reader, PageBatch& batch,
                         std::span<const cpython::RawFrame> frames, std::span<const Address> held,
                         std::uint64_t held_look) {
    std::size_t count = 0;
    counter_stays_ = counter_.stays(reader);
    const std::size_t held_count = holds_since(held_look) ? held.size() : 0;
    for (std::size_t i = 0; i < frames.size(); ++i) {
        if (i > 0 && frames[i].code == frames[i - 1].code) {
            continue;  // recursion
        }
        const std::size_t from_root = frames.size() - 1 - i;
        if (from_root < held_count && held[from_root] == frames[i].code) {
            continue;
        }
        const std::uint32_t known = find_entry(frames[i].code);
        if (known == AddressMap::kNone) {
            continue;
        }
        Entry& entry = entries_[known];
        if (!entry.is_defined || is_checked(entry)) {
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
        begin_asking();
        std::size_t end = next;
        while (end < count && ask(batch, entries_[pending_[end]])) {
            ++end;
        }
        if (end == next) {
            if (batch.is_empty()) {
                break;  // no room even for one: find_id() reads them
            }
            batch.reset();
            continue;
        }
        add_requested(batch);
        batch.run(reader);
        for (; next < end; ++next) {
            Entry& entry = entries_[pending_[next]];
            if (entry.is_defined && !is_checked(entry)) {
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
        const std::uint32_t known = find_entry(frame.code);
        if (known == AddressMap::kNone) {
            return false;
        }
        const Entry& entry = entries_[known];
        if (!entry.is_defined || !is_checked(entry) || entry.known_since_ns > at_ns) {
            return false;
        }
        // The same before and after: without a number of its own, another one may have been here
        // and gone in between. Where that has been seen lately, nothing is taken for granted.
        if (!entry.is_versioned && at_ns - entry.replaced_ns < kDoubtNs) {
            return false;
        }
    }
    return true;
}

std::uint64_t CodeRegistry::hash_text(const std::byte* copy, const Text& text) {
    const std::uint64_t hash = mix(1, copy, sizeof(std::uintptr_t));  // the length
    return mix(hash, copy + (text.data_at - text.length_at), text.data_bytes);
}

CodeRegistry::Entry* CodeRegistry::insert(Address code) {
    if (entry_count_ == entries_.capacity()) {
        ++counts_.table_full;
        clear();
    }
    Entry& entry = entries_[entry_count_];
    entry = {};
    entry.replaced_ns = kLongAgoNs;
    entry.code = code.value();
    index_.set(code, entry_count_);
    lookup_of(code) = {code.value(), entry_count_};
    ++entry_count_;
    return &entry;
}

void CodeRegistry::clear() {
    index_.clear();
    lookups_ = {};
    text_index_.clear();
    page_index_.clear();
    page_count_ = 0;
    asked_count_ = 0;
    ++asking_;
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

void CodeRegistry::forget_tick() {
    for (std::size_t i = 0; i < defined_count_; ++i) {
        entries_[defined_[i]].is_defined = false;
    }
    defined_count_ = 0;
    counter_.void_looks_before(look_ + 1);
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
    texts_[place].place = place_of(text.from(), text.bytes());
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
    if (reader.read({requests.data(), count}) != count ||
        !is_alive(view_.layout->object, code_copy.data())) {
        return false;
    }
    const CodeFields code = parse_code(code_copy.data());
    *out = {};
    out->head = code;
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

bool CodeRegistry::define(MemoryReader& reader, CodeSink& sink, Entry& entry) {
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
    const std::string_view name = read_text(reader, code.texts[kName], {texts, kMaxTextBytes});
    texts += kMaxTextBytes;
    std::string_view qualname;
    if (code.texts[kQualname]) {
        qualname = read_text(reader, code.texts[kQualname], {texts, kMaxTextBytes});
    }
    texts += kMaxTextBytes;
    const std::string_view filename =
        read_text(reader, code.texts[kFilename], {texts, kMaxTextBytes});
    texts += kMaxTextBytes;
    // CPython 3.12 and later, Python/specialize.c, _Py_InitCleanup: the one code object that is its
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
    } else if (table_size > kMaxTableBytes) {
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

    if (next_id_ == max_ids_) {
        renumber();
    }
    entry.id = next_id_++;
    entry.known_since_ns = since_ns;
    entry.identity = before;
    entry.is_versioned = code.version != 0;
    if (entry.is_versioned && !is_static(Address(entry.code))) {
        counter_.note(reader, code.version);
    }
    entry.look = look_;
    entry.asking = 0;
    entry.place = place_of(Address(entry.code), compared_bytes(entry));
    entry.is_defined = true;
    entry.has_long_table = has_long_table;
    has_long_tables_ |= has_long_table;
    if (table_size > kMaxTableBytes) {
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
    CodeDefinition definition;
    definition.id = entry.id;
    definition.first_line = std::max(code.first_line, 0);
    definition.name = name;
    definition.qualified_name = qualname;
    definition.file_name = filename;
    if (!has_long_table) {
        definition.table_kind = layout.code.line_table_kind;
    }
    definition.line_table = {table, table_size};
    sink.define(definition);
    return true;
}

}  // namespace echion::code
