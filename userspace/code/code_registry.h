#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "code/code_sink.h"
#include "code/version_counter.h"
#include "cpython/frame_walker.h"
#include "cpython/line_index.h"
#include "cpython/runtime_view.h"
#include "memory/address_map.h"
#include "memory/page_batch.h"
#include "memory/reader.h"

namespace echion::code {

/// Gives every code object that appears in a stack a small id, and tells a sink of it when it is
/// first seen: names, file, line table.
///
/// A code object's address says little about which one it is: when a function is dropped, the next
/// one is often built in its place, and its texts in the places of the old ones'. So each time that
/// a stack has been copied, all of its code objects are compared with what is known of them:
///     3.12 and later  their heads. Each has a number of its own (co_version; CPython
///                     Objects/codeobject.c, init_code), but for those that are never freed
///     before          their heads, and the texts behind the pointers
/// Where no code object has been made since the last comparison, that one holds.
/// The caller asks for the copies along with the stack's own (request()), compares after the walk
/// (check()), and proves that the thread stood still over all of it.
///
/// A definition takes several reads, in which the program may run on: it holds only if the code
/// object was there, alive and the same, before the first and after the last of them. That it is
/// the one that a stack means, the caller has to prove: see reads().
///
/// Fixed tables; full, it starts over. A code object that took another's place gets an id of its
/// own, as a stack that refers to the old one would otherwise look unchanged; when all ids have
/// been given, they are given anew. One thread at a time.
class CodeRegistry {
  public:
    /// Ids are below this: what a sink has to remember at most.
    static constexpr std::uint32_t kMaxIds = 1U << 16;
    /// How many code objects it knows at once: three quarters of that. A power of two.
    static constexpr std::size_t kCapacity = kMaxIds / 2;
    /// Stands for a code object that could not be read. The sink is not told of it.
    static constexpr std::uint32_t kUnknownCode = 0;

    static Result<CodeRegistry> make(const cpython::RuntimeView& view,
                                     std::size_t capacity = kCapacity);
    /// Ids of this one are below that.
    [[nodiscard]] std::uint32_t max_ids() const { return max_ids_; }

    /// Static data of the interpreter: what lies there (frozen code, names that it has from the
    /// start) is never freed, so that its address is enough.
    void set_static_range(Address from, std::size_t size_bytes) {
        static_from_ = from;
        static_bytes_ = size_bytes;
    }

    /// Of tables that are too large for the sink, so much is read in one tick: 1 to 2 ms.
    static constexpr std::size_t kLineBytesPerTick = std::size_t{256} << 10;
    /// Begins a tick: what the sink is told from now on is void or good together.
    void begin_tick(std::size_t line_budget_bytes = kLineBytesPerTick) {
        defined_count_ = 0;
        line_budget_bytes_ = line_budget_bytes;
    }

    /// Where the interpreter counts its code objects, if it is the only one: see VersionCounter.
    void set_version_counter(Address counter) { counter_.watch(counter); }

    /// What has been compared before counts no more: to be called before the copies of stacks are
    /// made that check() is then asked about.
    void begin_look(MemoryReader& reader) {
        if (counter_.begin_look(reader, ++look_)) {
            forget();
            is_python_new_ = true;
        }
        counter_stays_ = true;
        begin_asking();
    }
    /// Whether Python has started anew, as far as that counter shows, since forget() was called:
    /// what else is known of it counts no more. No look knows a code object of the one before.
    [[nodiscard]] bool is_python_new(MemoryReader& reader) {
        return is_python_new_ || counter_.has_begun_anew(reader);
    }
    /// Asks for what check() compares for `codes`, as far as they are known, in the round of
    /// `batch` that begins this look. Where the round is full, check() reads the rest.
    void request(PageBatch& batch, std::span<const Address> codes);
    /// To be called after the last request(): what has been asked for becomes part of the round.
    void add_requested(PageBatch& batch);
    /// Compares the code objects of `frames` (innermost first) that are known, by copies of this
    /// look or else by new ones. Those that are other ones by now are unknown again. Leaves out
    /// what is the same as in `held` (outermost first), which is a stack that found its ids in look
    /// number `held_look`, if what was found then still holds. May start the batch over.
    void check(MemoryReader& reader, PageBatch& batch, std::span<const cpython::RawFrame> frames,
               std::span<const Address> held, std::uint64_t held_look);
    /// The number of the look that is open.
    [[nodiscard]] std::uint64_t look() const { return look_; }
    /// Whether the ids that were found in look number `look` are still those of the same code
    /// objects, if their numbering is. Before check(): as far as is known then.
    [[nodiscard]] bool holds_since(std::uint64_t look) const {
        return counter_stays_ && counter_.has_stayed_since(look);
    }
    /// Whether all code objects of `frames`, which check() has compared, were known at `at_ns`
    /// (monotonic), and none of them can have been another one in between.
    [[nodiscard]] bool were_known(std::span<const cpython::RawFrame> frames,
                                  std::int64_t at_ns) const;

    /// The id of the code object at `code`, of which the sink has been told by now; kUnknownCode
    /// when it is none. One that has not been compared in this look is read.
    std::uint32_t find_id(MemoryReader& reader, CodeSink& sink, Address code);

    /// What is to be kept of the instruction at `offset` of a code object that find_id() has just
    /// given an id: that offset, or the line where the sink has no table. 0 there where the line is
    /// not known: see take_missing_lines().
    std::int32_t find_place(MemoryReader& reader, Address code, std::int32_t offset);
    /// Whether lines were left out since it was last asked that a later tick will find.
    [[nodiscard]] bool take_missing_lines() {
        const bool is_missing = is_line_missing_;
        is_line_missing_ = false;
        return is_missing;
    }

    /// How many code objects have been read to define them, whether they could be or not. A stack
    /// in whose lookup this has grown was true before; whether the code objects were still its own
    /// when they were read is another question.
    [[nodiscard]] std::uint64_t reads() const { return reads_; }

    /// All code objects are gone: others may have their places and, from 3.12 on, their numbers.
    void forget() {
        clear();
        trampoline_ = Address();
        counter_.restart(look_ + 1);
        is_python_new_ = false;
    }

    /// What the sink has been told in this tick is void: it is told again when needed.
    void forget_tick();

    /// The code object of the frame that 3.12 and later put between a call of a class and the
    /// __init__ that it enters; null until it has been met. No code of the program's.
    [[nodiscard]] Address trampoline() const { return trampoline_; }

    /// Changes when ids are given anew: equal ids from before and after say nothing. Otherwise an
    /// id stands for one code object.
    [[nodiscard]] std::uint32_t numbering() const { return numbering_; }

    struct Counts {
        std::uint64_t revalidated = 0;
        std::uint64_t replaced = 0;
        std::uint64_t table_full = 0;
        std::uint64_t names_failed = 0;
        std::uint64_t lines_unknown = 0;
    };
    [[nodiscard]] const Counts& counts() const { return counts_; }

  private:
    // Bytes of a text or table that are compared. Texts that agree in so much and differ behind, in
    // the same place, of the same length, are taken for the same.
    static constexpr std::size_t kComparedBytes = 4096;
    // Code objects that have one. Generated code has a few such functions; those of others have no
    // lines.
    static constexpr std::size_t kLongTables = 8;
    enum { kName, kFilename, kLineTable, kQualname, kTexts };
    static constexpr std::uint32_t kNoText = ~0U;
    static constexpr std::uint32_t kNoPage = ~0U;  // across two, or the table of pages is full

    // The last lookups, by address: a stack is mostly the same codes again, and lookups in the
    // large table are misses of the CPU's caches.
    struct Lookup {
        std::uintptr_t code;
        std::uint32_t entry;
    };
    static constexpr std::size_t kLookups = 256;

    // Where the copy of something comes from that is to be compared: as part of a page, or, across
    // two pages, by itself.
    struct Place {
        std::uint32_t page;
        PageBatch::Handle own;
    };
    // A page on which such things lie: what of it has been asked for, together. Code objects and
    // texts of one module lie close together, and a range costs more than its bytes.
    struct Page {
        std::uintptr_t address;
        std::uint64_t asking;     // when that was
        std::uint16_t from, end;  // of it
        PageBatch::Handle copy;
    };

    // A str or bytes object behind a code object, which may share it with others: its length and
    // leading data are compared. What lies around them changes by itself (count of references,
    // cached hash, interned or not).
    struct Text {
        std::uintptr_t object;
        std::uint64_t hash;  // as last compared
        std::uint64_t look;  // when that was
        std::uint16_t length_at;
        std::uint16_t data_at;
        std::uint32_t data_bytes;
        Place place;

        [[nodiscard]] Address from() const { return Address(object + length_at); }
        [[nodiscard]] std::size_t bytes() const { return data_at - length_at + data_bytes; }
    };
    struct CodeFields {
        Address type;
        Address texts[kTexts];  // null: this version has none
        std::int32_t first_line;
        std::uint32_t version;  // 0: none

        [[nodiscard]] bool operator==(const CodeFields&) const = default;
    };
    // What identifies a code object, by one reading.
    struct Identity {
        CodeFields head;
        std::uint64_t texts[kTexts];  // hashes

        [[nodiscard]] bool operator==(const Identity&) const = default;
    };
    struct Entry {
        std::int64_t known_since_ns;
        std::int64_t replaced_ns;  // when another code object was last found here
        Identity identity;         // as defined
        std::uintptr_t code;
        std::uint32_t id;
        std::uint64_t look;    // when it was last compared
        std::uint64_t asking;  // when its copy was last asked for
        bool is_defined;       // the sink has been told of it, and that is not void
        bool is_versioned;     // its head holds a number that no other code object has
        bool has_long_table;   // its lines are found here, not by the sink
        Place place;
        std::uint32_t texts[kTexts];  // places in texts_, or kNoText
    };
    enum class Comparison { kSame, kDifferent, kNoCopy };

    struct LongTable {
        cpython::LineIndex index;
        std::uintptr_t code = 0;  // 0: none
        std::int32_t first_line = 0;
    };

    [[nodiscard]] LongTable* find_long_table(std::uintptr_t code);
    bool begin_long_table(const Entry& entry, const CodeFields& code, std::uintptr_t size_bytes);
    [[nodiscard]] bool is_static(Address object) const {
        return object.value() - static_from_.value() < static_bytes_;
    }
    // A copy of what index_ says, by address.
    [[nodiscard]] Lookup& lookup_of(Address code) const {
        return lookups_[(code.value() >> 4 ^ code.value() >> 12) % kLookups];
    }
    [[nodiscard]] std::uint32_t find_entry(Address code) const;
    Entry* insert(Address code);
    // Whether no code object can have come since this one was compared.
    [[nodiscard]] bool is_covered(const Entry& entry) const {
        return entry.is_versioned && holds_since(entry.look);
    }
    // Whether what is known of a code object is true in this look.
    [[nodiscard]] bool is_checked(const Entry& entry) const {
        return entry.look == look_ || is_covered(entry);
    }
    Place place_of(Address from, std::size_t size_bytes);
    [[nodiscard]] std::size_t compared_bytes(const Entry& entry) const;
    // Asks for what compare() needs: begin_asking(), ask() for each entry, add_requested(). What
    // was asked for before has no copies any more.
    void begin_asking();
    bool ask(PageBatch& batch, Entry& entry);
    void ask_for(PageBatch& batch, Place& place, Address from, std::size_t size_bytes);
    // Whether it has been asked for, in the round of `batch` that is open; its copy, or null where
    // it cannot be read.
    bool find_copy(const PageBatch& batch, const Place& place, Address from, std::size_t size_bytes,
                   const std::byte** copy) const;
    Comparison compare(const PageBatch& batch, const Entry& entry);
    Comparison compare_texts(const PageBatch& batch, const Entry& entry);
    void settle(Entry& entry, Comparison comparison);
    bool define(MemoryReader& reader, CodeSink& sink, Entry& entry);
    // Finds the texts of a code object and how much of them is to be compared.
    bool find_texts(MemoryReader& reader, const CodeFields& code, Entry& entry);
    std::uint32_t place_text(const Text& text);
    [[nodiscard]] Text describe_str(const std::byte* head, Address object) const;
    [[nodiscard]] Text describe_bytes(std::uintptr_t size, Address object) const;
    [[nodiscard]] CodeFields parse_code(const std::byte* copy) const;
    static std::uint64_t hash_text(const std::byte* copy, const Text& text);
    // False when it cannot be read, is no longer alive or has other texts.
    bool read_identity(MemoryReader& reader, const Entry& entry, Identity* out);
    std::string_view read_text(MemoryReader& reader, Address object, std::span<char> into);
    void clear();
    void renumber();

    cpython::RuntimeView view_;
    Address static_from_;
    std::size_t static_bytes_ = 0;
    AddressMap index_;  // code object → index into entries_
    mutable std::array<Lookup, kLookups> lookups_{};
    FixedArray<Entry> entries_;
    AddressMap text_index_;  // str or bytes object → index into texts_
    FixedArray<Text> texts_;
    AddressMap page_index_;  // page → index into pages_
    FixedArray<Page> pages_;
    FixedArray<std::uint32_t> asked_;    // pages that have been asked for
    FixedArray<std::byte> scratch_;      // line tables and names on their way
    FixedArray<std::byte> compared_;     // what is read to identify a code object
    FixedArray<std::uint32_t> pending_;  // entries that check() has no copies of
    FixedArray<std::uint32_t> defined_;  // entries that the sink was told of in this tick
    std::size_t defined_count_ = 0;
    std::array<LongTable, kLongTables> long_tables_;
    FixedArray<std::byte> line_step_;  // a step of one of them
    std::size_t line_budget_bytes_ = kLineBytesPerTick;
    bool has_long_tables_ = false;
    bool is_line_missing_ = false;
    std::uint32_t max_ids_ = 0;
    std::uint32_t entry_count_ = 0;
    std::uint32_t text_count_ = 0;
    std::uint32_t page_count_ = 0;
    std::size_t asked_count_ = 0;
    std::uint64_t asking_ = 1;
    std::size_t head_bytes_ = 0;       // of a code object, that hold its CodeFields
    std::size_t versioned_bytes_ = 0;  // the same, of one that has a number of its own
    std::uint32_t next_id_ = kUnknownCode + 1;
    std::uint64_t look_ = 1;
    VersionCounter counter_;
    bool counter_stays_ = false;  // since this look began
    bool is_python_new_ = false;
    std::uint32_t numbering_ = 1;
    Address trampoline_;
    std::uint64_t reads_ = 0;
    Counts counts_;
};

}  // namespace echion::code
