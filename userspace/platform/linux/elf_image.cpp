#include "platform/elf_image.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace echion {
namespace {

using Ehdr = ElfW(Ehdr);
using Phdr = ElfW(Phdr);
using Sym = ElfW(Sym);
using Dyn = ElfW(Dyn);

#if defined(__x86_64__)
constexpr std::uint16_t kMachine = EM_X86_64;
#elif defined(__i386__)
constexpr std::uint16_t kMachine = EM_386;
#elif defined(__aarch64__)
constexpr std::uint16_t kMachine = EM_AARCH64;
#else
#error "no ELF machine for this architecture"
#endif
constexpr unsigned char kClass = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;

/// Hidden versions (name@VERSION, not name@@VERSION) carry this bit in DT_VERSYM.
constexpr std::uint16_t kHiddenVersion = 0x8000;

constexpr std::size_t kMaxNoteBytes = 4096;

unsigned char symbol_type(const Sym& symbol) { return symbol.st_info & 0xf; }

bool is_wanted(const Sym& symbol) {
    const unsigned char type = symbol_type(symbol);
    return symbol.st_shndx != SHN_UNDEF && symbol.st_value != 0 && type != STT_TLS &&
           type != STT_SECTION && type != STT_FILE;
}

ElfSymbol make_symbol(const Sym& symbol, std::uintptr_t bias) {
    const unsigned char type = symbol_type(symbol);
    return {Address(symbol.st_shndx == SHN_ABS ? symbol.st_value : symbol.st_value + bias),
            symbol.st_size, type == STT_FUNC || type == STT_GNU_IFUNC, type == STT_GNU_IFUNC};
}

/// Whether `address` holds exactly the characters of `name`, then a NUL.
Result<bool> holds_name(MemoryReader& reader, Address address, std::string_view name) {
    std::array<char, kMaxSymbolNameBytes + 1> copy;
    if (name.size() > kMaxSymbolNameBytes) {
        return fail(ErrorKind::kBoundExceeded, "a symbol name to look up is too long");
    }
    if (auto status = reader.read_bytes(address, copy.data(), name.size() + 1); !status) {
        return tl::unexpected(status.error());
    }
    return copy[name.size()] == '\0' && std::string_view(copy.data(), name.size()) == name;
}

std::uint32_t gnu_hash(std::string_view name) {
    std::uint32_t hash = 5381;
    for (const char character : name) {
        hash = hash * 33 + static_cast<unsigned char>(character);
    }
    return hash;
}

std::uint32_t sysv_hash(std::string_view name) {
    std::uint32_t hash = 0;
    for (const char character : name) {
        hash = (hash << 4) + static_cast<unsigned char>(character);
        hash ^= (hash >> 24) & 0xf0;
        hash &= 0x0fffffff;
    }
    return hash;
}

Status check_header(const Ehdr& header) {
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
        return fail(ErrorKind::kInvalid, "not an ELF object");
    }
    if (header.e_ident[EI_CLASS] != kClass || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != kMachine) {
        return fail(ErrorKind::kUnsupportedVersion, "an ELF object of another class or machine");
    }
    if ((header.e_type != ET_EXEC && header.e_type != ET_DYN) ||
        header.e_phentsize != sizeof(Phdr) || header.e_phnum == 0 ||
        header.e_phnum > kMaxProgramHeaders) {
        return fail(ErrorKind::kInvalid, "an ELF header that contradicts itself");
    }
    return {};
}

void widen(ElfRange& range, const ElfRange& other) {
    if (other.size_bytes > range.size_bytes) {
        range = other;
    }
}

}  // namespace

Result<ElfImage> ElfImage::read(MemoryReader& reader, Address base) {
    const auto header = reader.read_value<Ehdr>(base);
    if (!header) {
        return tl::unexpected(header.error());
    }
    if (auto status = check_header(*header); !status) {
        return tl::unexpected(status.error());
    }
    std::array<Phdr, kMaxProgramHeaders> headers;
    const std::size_t count = header->e_phnum;
    if (auto status =
            reader.read_bytes(base + header->e_phoff, headers.data(), count * sizeof(Phdr));
        !status) {
        return tl::unexpected(status.error());
    }

    // The first byte of the file lies in the segment with offset 0: that gives the bias.
    ElfImage image;
    image.base_ = base;
    bool has_bias = false;
    for (std::size_t i = 0; i < count && !has_bias; ++i) {
        if (headers[i].p_type == PT_LOAD && headers[i].p_offset == 0) {
            image.bias_ = base.value() - headers[i].p_vaddr;
            has_bias = true;
        }
    }
    if (!has_bias) {
        return fail(ErrorKind::kInvalid, "an ELF object without a first segment");
    }
    image.entry_ = Address(header->e_entry + image.bias_);
    if (auto status = image.take_segments(reader, headers.data(), count); !status) {
        return tl::unexpected(status.error());
    }
    return image;
}

Result<ElfImage> ElfImage::from_program_headers(MemoryReader& reader, std::uintptr_t bias,
                                                const void* headers, std::size_t count) {
    ElfImage image;
    image.bias_ = bias;
    if (auto status = image.take_segments(reader, headers, count); !status) {
        return tl::unexpected(status.error());
    }
    image.base_ = image.range_.start;
    return image;
}

Status ElfImage::take_segments(MemoryReader& reader, const void* headers, std::size_t count) {
    ElfRange dynamic;
    std::uintptr_t lowest = UINTPTR_MAX;
    std::uintptr_t highest = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const auto segment = load<Phdr>(headers, i * sizeof(Phdr));
        const std::uintptr_t start = segment.p_vaddr + bias_;
        if (segment.p_memsz > UINTPTR_MAX - start) {
            return fail(ErrorKind::kInvalid, "an ELF segment that wraps around");
        }
        const ElfRange place{Address(start), segment.p_memsz};
        switch (segment.p_type) {
            case PT_LOAD:
                lowest = std::min(lowest, start);
                highest = std::max(highest, start + segment.p_memsz);
                if ((segment.p_flags & PF_X) != 0) {
                    widen(text_, place);
                } else if ((segment.p_flags & PF_W) != 0) {
                    widen(data_, place);
                }
                break;
            case PT_DYNAMIC:
                dynamic = place;
                break;
            case PT_GNU_EH_FRAME:
                eh_frame_header_ = place;
                break;
            case PT_INTERP:
                has_interpreter_ = true;
                break;
            case PT_NOTE:
                widen(notes_, place);
                break;
            default:
                break;
        }
    }
    range_ = {Address(lowest), highest - lowest};
    // An object without a dynamic section (a static executable) has an image but no symbols.
    if (dynamic.size_bytes != 0) {
        return read_dynamic(reader, dynamic);
    }
    return {};
}

/// Pointers in a dynamic section are addresses of the file; glibc's loader turns them into
/// addresses in memory in place, musl's does not, and neither touches the vdso's.
Address ElfImage::relocated(std::uintptr_t pointer) const {
    return range_.contains(Address(pointer)) ? Address(pointer) : Address(pointer + bias_);
}

Status ElfImage::read_dynamic(MemoryReader& reader, ElfRange dynamic) {
    const std::size_t count = std::min(dynamic.size_bytes / sizeof(Dyn), kMaxDynamicEntries);
    for (std::size_t i = 0; i < count; ++i) {
        const auto entry = reader.read_value<Dyn>(dynamic.start + i * sizeof(Dyn));
        if (!entry) {
            return tl::unexpected(entry.error());
        }
        switch (entry->d_tag) {
            case DT_NULL:
                return {};
            case DT_SYMTAB:
                symbols_ = relocated(entry->d_un.d_ptr);
                break;
            case DT_STRTAB:
                strings_ = relocated(entry->d_un.d_ptr);
                break;
            case DT_STRSZ:
                strings_bytes_ = entry->d_un.d_val;
                break;
            case DT_GNU_HASH:
                gnu_hash_ = relocated(entry->d_un.d_ptr);
                break;
            case DT_HASH:
                hash_ = relocated(entry->d_un.d_ptr);
                break;
            case DT_VERSYM:
                versions_ = relocated(entry->d_un.d_ptr);
                break;
            default:
                break;
        }
    }
    return {};
}

Result<ElfImage::Match> ElfImage::match_symbol(MemoryReader& reader, std::size_t index,
                                               std::string_view name) const {
    const auto symbol = reader.read_value<Sym>(symbols_ + index * sizeof(Sym));
    if (!symbol) {
        return tl::unexpected(symbol.error());
    }
    if (!is_wanted(*symbol) || symbol->st_name >= strings_bytes_) {
        return fail(ErrorKind::kInvalid, "not a defined symbol");
    }
    const auto same = holds_name(reader, strings_ + symbol->st_name, name);
    if (!same) {
        return tl::unexpected(same.error());
    }
    if (!*same) {
        return fail(ErrorKind::kInvalid, "another symbol");
    }
    bool is_default = true;
    if (versions_) {
        const auto version =
            reader.read_value<std::uint16_t>(versions_ + index * sizeof(std::uint16_t));
        is_default = !version || (*version & kHiddenVersion) == 0;
    }
    return Match{make_symbol(*symbol, bias_), is_default};
}

Result<ElfSymbol> ElfImage::find_symbol(MemoryReader& reader, std::string_view name) const {
    if (!symbols_ || !strings_) {
        return fail(ErrorKind::kInvalid, "no dynamic symbol table");
    }
    if (gnu_hash_) {
        return find_by_gnu_hash(reader, name);
    }
    if (hash_) {
        return find_by_hash(reader, name);
    }
    return fail(ErrorKind::kInvalid, "no hash table of symbols");
}

Result<ElfSymbol> ElfImage::find_by_gnu_hash(MemoryReader& reader, std::string_view name) const {
    // u32 nbuckets, symoffset, bloom_size, bloom_shift; word bloom[bloom_size];
    // u32 buckets[nbuckets]; u32 chains[] from symbol `symoffset` on, bit 0 ends a chain
    const auto header = reader.read_value<std::array<std::uint32_t, 4>>(gnu_hash_);
    if (!header) {
        return tl::unexpected(header.error());
    }
    const auto [bucket_count, first_symbol, bloom_words, bloom_shift] = *header;
    if (bucket_count == 0) {
        return fail(ErrorKind::kInvalid, "an empty hash table of symbols");
    }
    const std::uint32_t wanted = gnu_hash(name);
    const Address buckets =
        gnu_hash_ + sizeof(*header) + std::size_t{bloom_words} * sizeof(std::uintptr_t);
    const auto first = reader.read_value<std::uint32_t>(
        buckets + std::size_t{wanted % bucket_count} * sizeof(std::uint32_t));
    if (!first) {
        return tl::unexpected(first.error());
    }
    if (*first < first_symbol) {
        return fail(ErrorKind::kInvalid, "no such symbol");
    }
    const Address chains = buckets + std::size_t{bucket_count} * sizeof(std::uint32_t);
    Result<ElfSymbol> hidden = fail(ErrorKind::kInvalid, "no such symbol");
    for (std::size_t step = 0; step < kMaxHashChain; ++step) {
        const std::size_t index = *first + step;
        const auto hash = reader.read_value<std::uint32_t>(chains + (index - first_symbol) *
                                                                        sizeof(std::uint32_t));
        if (!hash) {
            return tl::unexpected(hash.error());
        }
        if ((*hash | 1) == (wanted | 1)) {
            if (const auto match = match_symbol(reader, index, name)) {
                if (match->is_default) {
                    return match->symbol;
                }
                hidden = match->symbol;
            }
        }
        if ((*hash & 1) != 0) {
            return hidden;
        }
    }
    return fail(ErrorKind::kBoundExceeded, "a hash chain of symbols without an end");
}

Result<ElfSymbol> ElfImage::find_by_hash(MemoryReader& reader, std::string_view name) const {
    // u32 nbucket, nchain, buckets[nbucket], chains[nchain]; index 0 ends a chain
    const auto header = reader.read_value<std::array<std::uint32_t, 2>>(hash_);
    if (!header) {
        return tl::unexpected(header.error());
    }
    const auto [bucket_count, chain_count] = *header;
    if (bucket_count == 0) {
        return fail(ErrorKind::kInvalid, "an empty hash table of symbols");
    }
    const Address buckets = hash_ + sizeof(*header);
    const Address chains = buckets + std::size_t{bucket_count} * sizeof(std::uint32_t);
    Result<ElfSymbol> hidden = fail(ErrorKind::kInvalid, "no such symbol");
    auto index = reader.read_value<std::uint32_t>(
        buckets + std::size_t{sysv_hash(name) % bucket_count} * sizeof(std::uint32_t));
    for (std::size_t step = 0; step < kMaxHashChain; ++step) {
        if (!index) {
            return tl::unexpected(index.error());
        }
        if (*index == STN_UNDEF || *index >= chain_count) {
            return hidden;
        }
        if (const auto match = match_symbol(reader, *index, name)) {
            if (match->is_default) {
                return match->symbol;
            }
            hidden = match->symbol;
        }
        index =
            reader.read_value<std::uint32_t>(chains + std::size_t{*index} * sizeof(std::uint32_t));
    }
    return fail(ErrorKind::kBoundExceeded, "a hash chain of symbols without an end");
}

Result<std::size_t> ElfImage::read_build_id(MemoryReader& reader, std::byte* into,
                                            std::size_t capacity) const {
    // Notes: u32 name size, u32 content size, u32 type, name and content padded to 4 bytes.
    std::array<std::byte, kMaxNoteBytes> notes;
    const std::size_t size = std::min(notes_.size_bytes, notes.size());
    if (size == 0 || !reader.read_bytes(notes_.start, notes.data(), size)) {
        return fail(ErrorKind::kInvalid, "no notes");
    }
    const auto padded = [](std::size_t bytes) { return (bytes + 3) & ~std::size_t{3}; };
    std::size_t at = 0;
    while (size - at >= 12) {
        const auto name_size = std::size_t{load<std::uint32_t>(notes.data(), at)};
        const auto content_size = std::size_t{load<std::uint32_t>(notes.data(), at + 4)};
        const auto type = load<std::uint32_t>(notes.data(), at + 8);
        at += 12;
        if (name_size > size || content_size > size || padded(name_size) > size - at ||
            padded(content_size) > size - at - padded(name_size)) {
            break;
        }
        const std::byte* content = notes.data() + at + padded(name_size);
        if (type == NT_GNU_BUILD_ID && name_size == 4 &&
            std::memcmp(notes.data() + at, "GNU", 4) == 0 && content_size <= capacity) {
            std::memcpy(into, content, content_size);
            return content_size;
        }
        at += padded(name_size) + padded(content_size);
    }
    return fail(ErrorKind::kInvalid, "no build id");
}

}  // namespace echion
