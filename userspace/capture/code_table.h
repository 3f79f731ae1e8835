#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/mapping.h"
#include "code/code_registry.h"
#include "code/code_sink.h"
#include "cpython/frame_walker.h"
#include "cpython/runtime_view.h"
#include "memory/page_batch.h"
#include "memory/reader.h"

namespace echion::capture {

/// A frame in words. Texts are UTF-8.
struct SourceFrame {
    std::string_view function;  ///< qualified where the version has that; empty when unreadable
    std::string_view file;
    std::int32_t line = 0;  ///< 0 unknown
    /// CPython's own, between a call of a class and the __init__ that it enters (3.12 and later):
    /// not to be shown.
    bool is_trampoline = false;
};

/// Names code objects and places instructions in their source, each code object read once
/// (CodeRegistry). What it holds is good for as long as the target has not had the time to free a
/// code object and to put another one in its place: for one report. A longer one asks verify(), or
/// clears it.
///
/// Memory is taken by make(). When it is full, the table starts over. One thread at a time.
class CodeTable final : private code::CodeSink {
  public:
    static Result<CodeTable> make(const cpython::RuntimeView& view);

    /// The frame in words; the texts are good until the next call that is not const. All fields are
    /// empty for what is no code object.
    SourceFrame describe(MemoryReader& reader, const cpython::RawFrame& frame);

    /// Compares the code objects of these frames with what is known of them, as far as they are in
    /// the table, and drops those that have changed.
    void verify(MemoryReader& reader, std::span<const cpython::RawFrame> frames);

    void clear();

  private:
    // A text or table in the arena.
    struct Piece {
        std::uint32_t begin;
        std::uint32_t size_bytes;
    };
    struct Entry {
        Piece function;
        Piece file;
        Piece table;
        std::int32_t first_line;
        bool has_table;
    };

    static constexpr std::size_t kCapacity = std::size_t{1} << 13;  // of the registry
    static constexpr std::size_t kArenaBytes = std::size_t{16} << 20;
    static constexpr std::size_t kComparedBytes = std::size_t{1} << 20;
    static constexpr std::size_t kMostBytes = 2 * code::kMaxTextBytes + code::kMaxTableBytes;
    // Of a table that is too large to be kept, so much for one frame: 0.3 s at most.
    static constexpr std::size_t kLongTableBytes = std::size_t{32} << 20;

    void define(const code::CodeDefinition& code) override;
    Piece keep(const void* bytes, std::size_t size_bytes);
    [[nodiscard]] std::string_view text(const Piece& piece) const;

    cpython::LineTableKind table_kind_{};
    code::CodeRegistry codes_;
    PageBatch compared_;
    FixedArray<Entry> entries_;  // by id
    Reservation arena_;
    std::size_t used_ = 0;
};

}  // namespace echion::capture
