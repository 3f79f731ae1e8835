#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/error.h"
#include "memory/address.h"
#include "memory/read_budget.h"
#include "memory/reader.h"

namespace echion {

/// A symbol's place in the target.
struct ElfSymbol {
    Address address;
    std::size_t size_bytes = 0;
    bool is_function = false;
    /// An indirect function (STT_GNU_IFUNC): `address` is its resolver, not itself.
    bool is_indirect = false;
};

/// A range of the target's memory; empty when `size_bytes` is 0.
struct ElfRange {
    Address start;
    std::size_t size_bytes = 0;

    [[nodiscard]] bool contains(Address address) const { return address - start < size_bytes; }
    [[nodiscard]] Address end() const { return start + size_bytes; }
};

/// Bounds on what is read of an ELF object. The largest real ones (libtorch, chromium) have about
/// 2 million dynamic symbols and 15 program headers.
constexpr std::size_t kMaxProgramHeaders = 128;
constexpr std::size_t kMaxDynamicEntries = 512;
constexpr std::size_t kMaxHashChain = 1U << 14;
constexpr std::size_t kMaxSymbolNameBytes = 128;

/// One ELF object as it lies in the target's memory, of the class, byte order and machine of this
/// build. It is read through a MemoryReader, not from its file: so it needs no access to the
/// target's file system, and sees a library that has been deleted or replaced on disk. Nothing in
/// it is trusted; every address read is an address in the target and is only ever read through the
/// reader. Plain data; allocates nothing; any thread.
///
/// Sources: the System V ABI (gABI) chapters 4 and 5; glibc elf/dl-lookup.c for DT_GNU_HASH.
class ElfImage {
  public:
    /// Reads the headers and the dynamic section of the object whose first byte is mapped at
    /// `base`. kInvalid when there is no such object or its headers contradict each other;
    /// kUnsupportedVersion when it is one of another class or machine.
    static Result<ElfImage> read(MemoryReader& reader, Address base);
    /// The same from program headers that are known (as dl_iterate_phdr(3) tells them), where they
    /// can be trusted. Takes little stack. kInvalid as above.
    static Result<ElfImage> from_program_headers(MemoryReader& reader, std::uintptr_t bias,
                                                 const void* headers, std::size_t count);

    /// What has to be added to an address of the file to get the one in memory.
    [[nodiscard]] std::uintptr_t bias() const { return bias_; }
    [[nodiscard]] Address base() const { return base_; }
    /// From the first byte of the lowest segment to the last of the highest.
    [[nodiscard]] ElfRange range() const { return range_; }
    /// The executable segment, the widest if there are several.
    [[nodiscard]] ElfRange text() const { return text_; }
    /// The writable segment with its zeroed end (.data and .bss), the widest if there are several.
    [[nodiscard]] ElfRange data() const { return data_; }
    /// PT_GNU_EH_FRAME: the binary search table over the unwind tables (.eh_frame_hdr).
    [[nodiscard]] ElfRange eh_frame_header() const { return eh_frame_header_; }
    [[nodiscard]] ElfRange notes() const { return notes_; }
    /// Whether the object asks for the dynamic loader (PT_INTERP): a dynamically linked executable.
    [[nodiscard]] bool has_interpreter() const { return has_interpreter_; }
    [[nodiscard]] Address entry() const { return entry_; }

    /// Looks a defined symbol up in the dynamic symbol table, through DT_GNU_HASH or DT_HASH. Where
    /// a name has several versions, the default one. kInvalid when it is absent.
    Result<ElfSymbol> find_symbol(MemoryReader& reader, std::string_view name) const;

    /// Copies the GNU build id into `into`; its length, or kInvalid when there is none.
    Result<std::size_t> read_build_id(MemoryReader& reader, std::byte* into,
                                      std::size_t capacity) const;

  private:
    Status take_segments(MemoryReader& reader, const void* headers, std::size_t count);
    Status read_dynamic(MemoryReader& reader, ElfRange dynamic);
    Address relocated(std::uintptr_t pointer) const;
    Result<ElfSymbol> find_by_gnu_hash(MemoryReader& reader, std::string_view name) const;
    Result<ElfSymbol> find_by_hash(MemoryReader& reader, std::string_view name) const;
    struct Match {
        ElfSymbol symbol;
        bool is_default;
    };
    Result<Match> match_symbol(MemoryReader& reader, std::size_t index,
                               std::string_view name) const;

    std::uintptr_t bias_ = 0;
    Address base_;
    Address entry_;
    ElfRange range_;
    ElfRange text_;
    ElfRange data_;
    ElfRange eh_frame_header_;
    ElfRange notes_;
    bool has_interpreter_ = false;

    Address symbols_;  // DT_SYMTAB
    Address strings_;  // DT_STRTAB
    std::size_t strings_bytes_ = 0;
    Address gnu_hash_;  // DT_GNU_HASH
    Address hash_;      // DT_HASH
    Address versions_;  // DT_VERSYM
};

/// A symbol to look up in a file, and what was found.
struct WantedSymbol {
    std::string_view name;
    std::optional<ElfSymbol> found;
};

/// Looks symbols up in an ELF file, all in one pass: in the full symbol table (.symtab), which only
/// an unstripped file has. (The gABI allows one in a file: of several, the first counts.) `bias` is
/// that of the mapped image. Reads up to 64 MiB each of symbols and of names into memory of its
/// own. kInvalid when the file is no such object or has no symbol table, kBoundExceeded when that
/// is too large or the budget is over.
Status find_symbols_in_file(int fd, std::uintptr_t bias, std::span<WantedSymbol> wanted,
                            ReadBudget& budget);
/// The same for one symbol; also kInvalid when there is no such symbol.
Result<ElfSymbol> find_symbol_in_file(int fd, std::uintptr_t bias, std::string_view name,
                                      ReadBudget& budget);
Result<ElfSymbol> find_symbol_in_file(int fd, std::uintptr_t bias, std::string_view name);

/// The place in memory of a section, by the file's section headers. Errors as above.
Result<ElfRange> find_section_in_file(int fd, std::uintptr_t bias, std::string_view name,
                                      ReadBudget& budget);
Result<ElfRange> find_section_in_file(int fd, std::uintptr_t bias, std::string_view name);

}  // namespace echion
