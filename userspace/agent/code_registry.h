#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "cpython/frame_walker.h"
#include "cpython/runtime_view.h"
#include "memory/address_map.h"
#include "memory/reader.h"
#include "stream/encoder.h"

namespace echion::agent {

/// Gives every code object that appears in a stack a small id, and defines it in the stream when it
/// is first seen: names, file, line table.
///
/// A code object's address says little about which one it is: when a function is dropped, the next
/// one is often built in its place. So an entry is compared with the memory again when it is used
/// and old:
///     kGlanceAgeNs  its pointers and first line, for all frames that a stack has got new,
///                   in one read
///     kSoftAgeNs    also the texts behind the pointers (a name's memory is reused as readily
///                   as the code object's), within a budget per tick
///     kHardAgeNs    the same in any case: no name is given that was not that code object's within
///                   the last second
///
/// A definition takes several reads, in which the program may run on: it holds only if the code
/// object was there, alive and the same, before the first and after the last of them. That it is
/// the one that a stack means, the caller has to prove: see reads().
///
/// Fixed tables; full, it starts over. A code object that took another's place gets an id of its
/// own, as a stack that refers to the old one would otherwise look unchanged; when all ids have
/// been given, they are given anew. Sampler thread only.
class CodeRegistry {
  public:
    static constexpr std::int64_t kGlanceAgeNs = 4'000'000;
    static constexpr std::int64_t kSoftAgeNs = 300'000'000;
    static constexpr std::int64_t kHardAgeNs = 600'000'000;
    static constexpr unsigned kChecksPerTick = 8;
    /// Ids are below this: what the reader of the stream has to remember at most.
    static constexpr std::uint32_t kMaxIds = 1U << 16;
    /// Stands for a code object that could not be read; defined by start().
    static constexpr std::uint32_t kUnknownCode = 0;

    static Result<CodeRegistry> make(const cpython::RuntimeView& view);

    /// Begins a tick: `now_ns` is its monotonic time.
    void begin_tick(std::int64_t now_ns) {
        now_ns_ = now_ns;
        checks_left_ = kChecksPerTick;
        defined_count_ = 0;
    }

    /// Compares the code objects of `frames` with the memory, those that it has not looked at for
    /// kGlanceAgeNs. One read for kMaxGlances of them. Returns whether all have been looked at:
    /// none was too young.
    bool glance(MemoryReader& reader, std::span<const cpython::RawFrame> frames);

    /// The id of the code object at `code`, defined in the stream by now; kUnknownCode when it is
    /// none. `fresh` is cleared when the entry is past its soft age and the budget is used up.
    std::uint32_t find_id(MemoryReader& reader, stream::Encoder& encoder, Address code,
                          bool* fresh);

    /// How many code objects have been read to define them, whether they could be or not. A stack
    /// in whose lookup this has grown was true before; whether the code objects were still its own
    /// when they were read is another question.
    [[nodiscard]] std::uint64_t reads() const { return reads_; }

    /// The batch that was open has been dropped: its definitions are given again when needed.
    void forget_batch();

    /// The code object of the frame that 3.12 and later put between a call of a class and the
    /// __init__ that it enters; null until it has been met. No code of the program's.
    [[nodiscard]] Address trampoline() const { return trampoline_; }

    /// Changes whenever an id may stand for another code object than before.
    [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
    /// Changes (and the epoch with it) when ids are given anew: equal ids from before and after say
    /// nothing.
    [[nodiscard]] std::uint32_t numbering() const { return numbering_; }

    struct Counts {
        std::uint64_t revalidated = 0;
        std::uint64_t replaced = 0;
        std::uint64_t table_full = 0;
        std::uint64_t names_failed = 0;
    };
    [[nodiscard]] const Counts& counts() const { return counts_; }

  private:
    static constexpr std::size_t kCapacity = 1U << 15;
    static constexpr std::size_t kEntries = kCapacity / 4 * 3 - 1;
    static_assert(kMaxIds > 2 * kEntries && kMaxIds <= stream::kMaxCodes);
    // Bytes of a text or table that are compared. Names that agree in so much and differ behind,
    // in the same place, of the same length, are taken for the same.
    static constexpr std::size_t kComparedBytes = 128;
    static constexpr std::size_t kMaxGlances = 32;

    // The part of a str or bytes object that is compared: its length field and leading data. What
    // lies between changes by itself (reference count, cached hash).
    struct Span {
        std::uintptr_t object;
        std::uint16_t length_at;
        std::uint16_t data_at;
        std::uint16_t data_bytes;
    };
    struct Entry {
        std::int64_t checked_ns;
        std::int64_t glanced_ns;
        std::uint64_t fingerprint;
        std::uint64_t identity;  // hash of the pointers and the first line
        std::uintptr_t code;
        std::uint32_t id;
        bool is_defined;  // in the stream, by a batch that was written
        Span name;
        Span table;
    };
    struct CodeFields {
        Address type, filename, name, qualname, linetable;
        std::int32_t first_line;
    };

    Entry* insert(Address code);
    bool define(MemoryReader& reader, stream::Encoder& encoder, Entry& entry);
    [[nodiscard]] Span find_name_span(const std::byte* unicode_head, Address object) const;
    [[nodiscard]] CodeFields parse_code(const std::byte* copy) const;
    static std::uint64_t hash_identity(const CodeFields& code);
    // Hash of what identifies the code object, also in `identity`; 0 when it cannot be read or is
    // no longer alive.
    std::uint64_t read_fingerprint(MemoryReader& reader, const Entry& entry,
                                   std::uint64_t* identity);
    std::string_view read_text(MemoryReader& reader, Address object, std::span<char> into);
    void clear();
    void renumber();

    cpython::RuntimeView view_;
    AddressMap index_;  // code object → index into entries_
    FixedArray<Entry> entries_;
    FixedArray<std::byte> scratch_;      // line tables and names on their way
    FixedArray<std::uint32_t> defined_;  // entries defined in the open batch
    std::size_t defined_count_ = 0;
    std::uint32_t entry_count_ = 0;
    std::uint32_t next_id_ = kUnknownCode + 1;
    std::uint32_t epoch_ = 1;
    std::uint32_t numbering_ = 1;
    Address trampoline_;
    std::int64_t now_ns_ = 0;
    unsigned checks_left_ = 0;
    std::uint64_t reads_ = 0;
    Counts counts_;
};

}  // namespace echion::agent
