#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "cpython/line_table.h"
#include "memory/reader.h"

namespace echion::cpython {

/// Finds lines in a table that is too large to be copied as a whole: reads it in steps, remembers
/// where each began, and then reads one step for an instruction. A step takes 0.2 to 0.5 ms.
///
/// The table belongs to the target and may be gone or another one at any moment: that the code
/// object is still the same, the caller has to prove. Any bytes give an answer, in bounded time.
/// Memory is taken by make(). One thread at a time.
class LineIndex {
  public:
    static constexpr std::size_t kStepBytes = std::size_t{64} << 10;
    /// Instructions whose entries lie behind so many bytes (64 MiB) have no line.
    static constexpr std::size_t kSteps = 1024;

    static Result<LineIndex> make();

    /// Begins with another table. `data`: its first byte.
    void begin(LineTableKind kind, Address data, std::uint64_t size_bytes, std::int32_t first_line);

    enum class Outcome : std::uint8_t {
        kFound,
        kLater,    ///< There was no `budget` left: ask again with a new one.
        kUnknown,  ///< Memory that cannot be read, or a table too long or damaged.
    };
    /// The line of the instruction at `offset`; 0 where the table has none. Takes what it reads
    /// from `budget_bytes`, and leaves it where a step is more than what is left. `buffer` has room
    /// for a step.
    Outcome find(MemoryReader& reader, std::span<std::byte> buffer, std::int64_t offset,
                 std::size_t* budget_bytes, std::int32_t* line);

  private:
    static constexpr std::size_t kCached = 256;
    struct CachedLine {
        std::int64_t offset;
        std::int32_t line;
        bool is_used;
    };

    Outcome read_step(MemoryReader& reader, std::span<std::byte> buffer, std::uint64_t at,
                      std::size_t* budget_bytes, std::span<const std::byte>* part) const;
    Outcome extend(MemoryReader& reader, std::span<std::byte> buffer, std::int64_t offset,
                   std::size_t* budget_bytes);

    LineTableKind kind_ = LineTableKind::kLnotab;
    Address data_;
    std::uint64_t size_bytes_ = 0;
    std::int32_t first_line_ = 0;
    FixedArray<LineTablePlace> steps_;  // where each began
    std::size_t step_count_ = 0;
    LineTablePlace end_;  // of the steps so far
    FixedArray<CachedLine> cached_;
};

}  // namespace echion::cpython
