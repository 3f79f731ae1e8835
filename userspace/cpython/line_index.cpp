#include "cpython/line_index.h"

#include <algorithm>
#include <limits>

namespace echion::cpython {

Result<LineIndex> LineIndex::make() {
    auto steps = FixedArray<LineTablePlace>::make(kSteps);
    auto cached = FixedArray<CachedLine>::make(kCached);
    if (!steps || !cached) {
        return fail(ErrorKind::kNoSpace, "reserve memory for long tables of lines");
    }
    LineIndex index;
    index.steps_ = std::move(*steps);
    index.cached_ = std::move(*cached);
    return index;
}

void LineIndex::begin(LineTableKind kind, Address data, std::uint64_t size_bytes,
                      std::int32_t first_line) {
    kind_ = kind;
    data_ = data;
    size_bytes_ = size_bytes;
    first_line_ = first_line;
    step_count_ = 0;
    end_ = {.line = first_line};
    for (std::size_t i = 0; i < kCached; ++i) {
        cached_[i] = {};
    }
}

LineIndex::Outcome LineIndex::read_step(MemoryReader& reader, std::span<std::byte> buffer,
                                        std::uint64_t at, std::size_t* budget_bytes,
                                        std::span<const std::byte>* part) const {
    const auto size =
        static_cast<std::size_t>(std::min<std::uint64_t>(kStepBytes, size_bytes_ - at));
    if (*budget_bytes < size) {
        return Outcome::kLater;
    }
    *budget_bytes -= size;
    if (!reader.read_bytes(data_ + static_cast<std::size_t>(at), buffer.data(), size)) {
        return Outcome::kUnknown;
    }
    *part = buffer.first(size);
    return Outcome::kFound;
}

LineIndex::Outcome LineIndex::extend(MemoryReader& reader, std::span<std::byte> buffer,
                                     std::int64_t offset, std::size_t* budget_bytes) {
    while (end_.range_end <= offset && end_.at < size_bytes_) {
        std::span<const std::byte> part;
        if (step_count_ == kSteps) {
            return Outcome::kUnknown;
        }
        if (const Outcome outcome = read_step(reader, buffer, end_.at, budget_bytes, &part);
            outcome != Outcome::kFound) {
            return outcome;
        }
        const LineTablePlace from = end_;
        const bool is_last = end_.at + part.size() == size_bytes_;
        SourcePosition none;
        search_line_table(kind_, part, is_last, std::numeric_limits<std::int64_t>::max(), end_,
                          &none);
        if (is_last) {
            end_.at = size_bytes_;  // what is left of it is no whole entry
        } else if (end_.at == from.at) {
            return Outcome::kUnknown;  // an entry longer than a step
        }
        steps_[step_count_++] = from;
    }
    return Outcome::kFound;
}

LineIndex::Outcome LineIndex::find(MemoryReader& reader, std::span<std::byte> buffer,
                                   std::int64_t offset, std::size_t* budget_bytes,
                                   std::int32_t* line) {
    *line = 0;
    if (offset < 0) {
        *line = std::max(first_line_, 0);
        return Outcome::kFound;
    }
    // Instructions are at even offsets.
    CachedLine& cached = cached_[static_cast<std::size_t>(offset / 2) % kCached];
    if (cached.is_used && cached.offset == offset) {
        *line = cached.line;
        return Outcome::kFound;
    }
    if (const Outcome outcome = extend(reader, buffer, offset, budget_bytes);
        outcome != Outcome::kFound) {
        return outcome;
    }
    const auto behind =
        std::upper_bound(steps_.data(), steps_.data() + step_count_, offset,
                         [](std::int64_t at, const auto& step) { return at < step.range_end; });
    if (behind == steps_.data()) {
        return Outcome::kUnknown;  // an empty table
    }
    LineTablePlace place = *(behind - 1);
    std::span<const std::byte> part;
    if (const Outcome outcome = read_step(reader, buffer, place.at, budget_bytes, &part);
        outcome != Outcome::kFound) {
        return outcome;
    }
    SourcePosition found;
    const bool is_last = place.at + part.size() == size_bytes_;
    if (!search_line_table(kind_, part, is_last, offset, place, &found)) {
        return Outcome::kUnknown;  // it has changed meanwhile
    }
    *line = found.line;
    cached = {offset, found.line, true};
    return Outcome::kFound;
}

}  // namespace echion::cpython
