#include "capture/code_table.h"

#include <cstring>
#include <utility>

#include "cpython/line_table.h"

namespace echion::capture {

static_assert(code::kMaxTableBytes <= cpython::kMaxLineTableBytes);

Result<CodeTable> CodeTable::make(const cpython::RuntimeView& view) {
    auto codes = code::CodeRegistry::make(view, kCapacity);
    auto compared = PageBatch::make(kComparedBytes);
    auto arena = Reservation::make(kArenaBytes);
    if (!codes || !compared || !arena) {
        return fail(ErrorKind::kNoSpace, "reserve memory for the names of functions");
    }
    auto entries = FixedArray<Entry>::make(codes->max_ids());
    if (!entries) {
        return tl::unexpected(entries.error());
    }
    CodeTable table;
    table.table_kind_ = view.layout->code.line_table_kind;
    table.codes_ = std::move(*codes);
    table.compared_ = std::move(*compared);
    table.entries_ = std::move(*entries);
    table.arena_ = std::move(*arena);
    return table;
}

void CodeTable::clear() {
    codes_.forget();
    used_ = 0;
}

CodeTable::Piece CodeTable::keep(const void* bytes, std::size_t size_bytes) {
    const Piece piece{static_cast<std::uint32_t>(used_), static_cast<std::uint32_t>(size_bytes)};
    if (size_bytes > 0) {
        std::memcpy(arena_.data() + used_, bytes, size_bytes);
    }
    used_ += size_bytes;
    return piece;
}

/// There is room in the arena: see describe().
void CodeTable::define(const code::CodeDefinition& code) {
    const std::string_view function = code.qualified_name.empty() ? code.name : code.qualified_name;
    Entry& entry = entries_[code.id];
    entry.function = keep(function.data(), function.size());
    entry.file = keep(code.file_name.data(), code.file_name.size());
    entry.table = keep(code.line_table.data(), code.line_table.size());
    entry.first_line = code.first_line;
    entry.has_table = code.table_kind.has_value();
}

SourceFrame CodeTable::describe(MemoryReader& reader, const cpython::RawFrame& frame) {
    if (frame.code && frame.code == codes_.trampoline()) {
        return {{}, {}, 0, true};
    }
    if (!arena_.grow_to(used_ + kMostBytes)) {
        clear();
        if (!arena_.grow_to(kMostBytes)) {
            return {};
        }
    }
    codes_.begin_tick(kLongTableBytes);
    const std::uint32_t id = codes_.find_id(reader, *this, frame.code);
    SourceFrame described;
    described.is_trampoline = frame.code && frame.code == codes_.trampoline();
    if (id == code::CodeRegistry::kUnknownCode) {
        return described;
    }
    const Entry& entry = entries_[id];
    described.function = text(entry.function);
    described.file = text(entry.file);
    described.line = codes_.find_place(reader, frame.code, frame.offset);
    if (entry.has_table) {
        described.line =
            cpython::parse_line_table(table_kind_,
                                      {arena_.data() + entry.table.begin, entry.table.size_bytes},
                                      entry.first_line, frame.offset)
                .line;
    }
    return described;
}

void CodeTable::verify(MemoryReader& reader, std::span<const cpython::RawFrame> frames) {
    codes_.begin_look(reader);
    compared_.reset();
    codes_.check(reader, compared_, frames, {}, 0);
}

std::string_view CodeTable::text(const Piece& piece) const {
    return {reinterpret_cast<const char*>(arena_.data() + piece.begin), piece.size_bytes};
}

}  // namespace echion::capture
