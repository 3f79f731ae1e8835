#include "capture/code_table.h"

#include <algorithm>
#include <array>

#include "cpython/line_table.h"
#include "cpython/objects.h"

namespace echion::capture {
namespace {

using cpython::has;
using cpython::Offset;

// The fixed part of a code object has about 200 bytes in every version.
constexpr std::size_t kMaxCodeBytes = 512;
constexpr std::size_t kVerifiedAtOnce = 32;

std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

}  // namespace

Result<CodeTable> CodeTable::make(const cpython::RuntimeView& view) {
    if (at(view.layout->code.size) > kMaxCodeBytes) {
        return fail(ErrorKind::kBoundExceeded, "a code object larger than expected");
    }
    CodeTable table;
    table.view_ = view;
    auto index = AddressMap::make(kCapacity);
    auto entries = FixedArray<Entry>::make(kEntries);
    auto arena = Reservation::make(kArenaBytes);
    auto line_step = FixedArray<std::byte>::make(cpython::LineIndex::kStepBytes);
    for (LongTable& long_table : table.long_tables_) {
        auto lines = cpython::LineIndex::make();
        if (!lines) {
            return tl::unexpected(lines.error());
        }
        long_table.index = std::move(*lines);
    }
    if (!index || !entries || !arena || !line_step) {
        return fail(ErrorKind::kNoSpace, "reserve memory for the names of functions");
    }
    table.index_ = std::move(*index);
    table.entries_ = std::move(*entries);
    table.arena_ = std::move(*arena);
    table.line_step_ = std::move(*line_step);
    return table;
}

void CodeTable::clear() {
    index_.clear();
    entry_count_ = 0;
    used_ = 0;
    for (LongTable& table : long_tables_) {
        table.table = Address();
    }
}

SourceFrame CodeTable::describe(MemoryReader& reader, const cpython::RawFrame& frame) {
    const std::uint32_t known = index_.find(frame.code);
    const Entry* entry = known == AddressMap::kNone ? define(reader, frame.code) : &entries_[known];
    if (entry == nullptr) {
        return {};
    }
    return {text(entry->function), text(entry->file), find_line(reader, *entry, frame.offset),
            entry->is_trampoline};
}

std::int32_t CodeTable::find_line(MemoryReader& reader, const Entry& entry, std::int32_t offset) {
    const cpython::LineTableKind kind = view_.layout->code.line_table_kind;
    if (!entry.long_table) {
        return cpython::parse_line_table(
                   kind, {arena_.data() + entry.table.begin, entry.table.size_bytes},
                   entry.identity.first_line, offset)
            .line;
    }
    LongTable* table = nullptr;
    for (LongTable& known : long_tables_) {
        if (known.table == entry.long_table && known.size_bytes == entry.long_bytes) {
            table = &known;
        }
    }
    if (table == nullptr) {
        table = &long_tables_[next_long_table_];
        next_long_table_ = (next_long_table_ + 1) % kLongTables;
        table->table = entry.long_table;
        table->size_bytes = entry.long_bytes;
        table->index.begin(kind, entry.long_table, entry.long_bytes, entry.identity.first_line);
    }
    std::size_t budget_bytes = kLongBytes;
    std::int32_t line = 0;
    table->index.find(reader, {line_step_.data(), line_step_.capacity()}, offset, &budget_bytes,
                      &line);
    return line;
}

void CodeTable::verify(MemoryReader& reader, std::span<const cpython::RawFrame> frames) {
    const std::size_t size = at(view_.layout->code.size);
    std::array<std::byte, kVerifiedAtOnce * kMaxCodeBytes> copies;
    std::array<ReadRequest, kVerifiedAtOnce> requests;
    std::array<std::uint32_t, kVerifiedAtOnce> known;
    for (std::size_t next = 0; next < frames.size();) {
        std::size_t count = 0;
        for (; next < frames.size() && count < kVerifiedAtOnce; ++next) {
            known[count] = index_.find(frames[next].code);
            if (known[count] != AddressMap::kNone) {
                requests[count] = {frames[next].code, copies.data() + count * size, size};
                ++count;
            }
        }
        const std::size_t read = count == 0 ? 0 : reader.read({requests.data(), count});
        for (std::size_t i = 0; i < count; ++i) {
            if (i >= read ||
                parse_identity(copies.data() + i * size) != entries_[known[i]].identity) {
                for (LongTable& table : long_tables_) {
                    table.table =
                        table.table == entries_[known[i]].long_table ? Address() : table.table;
                }
                index_.erase(requests[i].from);
            }
        }
    }
}

CodeTable::Identity CodeTable::parse_identity(const std::byte* copy) const {
    const cpython::CodeLayout& fields = view_.layout->code;
    Identity identity;
    identity.type = load_address(copy, at(view_.layout->object.ob_type));
    identity.filename = load_address(copy, at(fields.filename));
    identity.name = load_address(copy, at(fields.name));
    identity.qualname = has(fields.qualname) ? load_address(copy, at(fields.qualname)) : Address();
    identity.linetable = load_address(copy, at(fields.linetable));
    identity.first_line = load<std::int32_t>(copy, at(fields.firstlineno));
    return identity;
}

Result<CodeTable::Identity> CodeTable::read_identity(MemoryReader& reader, Address code) const {
    std::array<std::byte, kMaxCodeBytes> copy;
    if (auto status = reader.read_bytes(code, copy.data(), at(view_.layout->code.size)); !status) {
        return tl::unexpected(status.error());
    }
    const Identity identity = parse_identity(copy.data());
    if (view_.code_type && identity.type != view_.code_type) {
        return fail(ErrorKind::kInvalid, "not a code object");
    }
    return identity;
}

CodeTable::Entry* CodeTable::define(MemoryReader& reader, Address code) {
    const auto identity = read_identity(reader, code);
    if (!identity) {
        return nullptr;
    }
    constexpr std::size_t kMostBytes = kFunctionBytes + kFileBytes + kTableBytes;
    if (entry_count_ == entries_.capacity() || !arena_.grow_to(used_ + kMostBytes)) {
        clear();
    }
    if (!arena_.grow_to(used_ + kMostBytes)) {
        return nullptr;
    }
    Entry entry{};
    entry.identity = *identity;
    entry.function =
        read_text(reader, identity->qualname ? identity->qualname : identity->name, kFunctionBytes);
    entry.file = read_text(reader, identity->filename, kFileBytes);
    read_table(reader, identity->linetable, entry);
    // CPython 3.12 and 3.13, Python/specialize.c, _Py_InitCleanup: the one code object that is its
    // own file.
    entry.is_trampoline = identity->filename == identity->name &&
                          identity->qualname == identity->name &&
                          text(entry.function) == "__init__";
    if (entry.function.size_bytes == 0 && entry.file.size_bytes == 0) {
        return nullptr;
    }
    entries_[entry_count_] = entry;
    // Not indexed when the index is full, which holds twice as many: then it is read each time.
    index_.set(code, entry_count_);
    return &entries_[entry_count_++];
}

CodeTable::Piece CodeTable::read_text(MemoryReader& reader, Address object, std::size_t limit) {
    auto* into = reinterpret_cast<char*>(arena_.data() + used_);
    const auto read =
        cpython::ObjectReader(reader, *view_.layout).read_unicode(object, {into, limit});
    Piece piece{static_cast<std::uint32_t>(used_), 0};
    if (read) {
        piece.size_bytes = static_cast<std::uint32_t>(read->utf8.size());
        used_ += piece.size_bytes;
    }
    return piece;
}

void CodeTable::read_table(MemoryReader& reader, Address object, Entry& entry) {
    entry.table = {static_cast<std::uint32_t>(used_), 0};
    const auto read = cpython::ObjectReader(reader, *view_.layout)
                          .read_bytes(object, {arena_.data() + used_, kTableBytes});
    if (!read) {
        entry.long_table = object;  // of no bytes: no line is known
        return;
    }
    if (read->truncated) {
        const auto size =
            reader.read_value<std::uintptr_t>(object + at(view_.layout->bytes.ob_size));
        entry.long_table = object + at(view_.layout->bytes.ob_sval);
        entry.long_bytes = size ? *size : 0;
        return;
    }
    entry.table.size_bytes = static_cast<std::uint32_t>(read->bytes.size());
    used_ += entry.table.size_bytes;
}

std::string_view CodeTable::text(const Piece& piece) const {
    return {reinterpret_cast<const char*>(arena_.data() + piece.begin), piece.size_bytes};
}

}  // namespace echion::capture
