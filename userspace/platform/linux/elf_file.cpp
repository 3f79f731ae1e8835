// The parts of an ELF object that only its file has: section headers and the full symbol table.

#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/mapping.h"
#include "platform/elf_image.h"

namespace echion {
namespace {

using Ehdr = ElfW(Ehdr);
using Shdr = ElfW(Shdr);
using Sym = ElfW(Sym);

constexpr std::size_t kMaxSections = 1024;
constexpr std::size_t kMaxTableBytes = std::size_t{64} << 20;
// A read at a time, so that the budget's clock is looked at in between; and symbols, likewise.
constexpr std::size_t kReadBytes = std::size_t{1} << 20;
constexpr std::size_t kSymbolsBetweenLooks = 1U << 14;

Status read_at(int fd, std::uint64_t offset, void* into, std::size_t size_bytes,
               ReadBudget& budget) {
    std::size_t done = 0;
    while (done < size_bytes) {
        const std::size_t part = std::min(size_bytes - done, kReadBytes);
        if (!budget.spend(part)) {
            return fail(ErrorKind::kBoundExceeded, "the tables of its files take too long to read");
        }
        const ssize_t got =
            pread64(fd, static_cast<char*>(into) + done, part, static_cast<off64_t>(offset + done));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return fail(ErrorKind::kInvalid, "an ELF file ends too early");
        }
        done += static_cast<std::size_t>(got);
    }
    return {};
}

Result<FixedArray<char>> read_table(int fd, const Shdr& section, ReadBudget& budget) {
    if (section.sh_size == 0 || section.sh_size > kMaxTableBytes) {
        return fail(ErrorKind::kBoundExceeded, "a table of an ELF file is too large");
    }
    auto table = FixedArray<char>::make(section.sh_size);
    if (!table) {
        return table;
    }
    if (auto status = read_at(fd, section.sh_offset, table->data(), section.sh_size, budget);
        !status) {
        return tl::unexpected(status.error());
    }
    return table;
}

/// Whether the NUL-terminated string at `offset` of a table is `name`.
bool is_name(const FixedArray<char>& strings, std::size_t offset, std::string_view name) {
    return offset < strings.capacity() && strings.capacity() - offset > name.size() &&
           std::memcmp(strings.data() + offset, name.data(), name.size()) == 0 &&
           strings[offset + name.size()] == '\0';
}

bool is_symbol_table(const Shdr& section) {
    return section.sh_type == SHT_SYMTAB && section.sh_entsize == sizeof(Sym);
}

struct Sections {
    FixedArray<Shdr> headers;
    std::size_t count = 0;
    std::size_t names_index = 0;
};

Result<Sections> read_sections(int fd, ReadBudget& budget) {
    Ehdr header;
    if (auto status = read_at(fd, 0, &header, sizeof(header), budget); !status) {
        return tl::unexpected(status.error());
    }
    const bool is_same_class =
        std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 &&
        header.e_ident[EI_CLASS] == (sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32) &&
        header.e_ident[EI_DATA] == ELFDATA2LSB;
    if (!is_same_class || header.e_shentsize != sizeof(Shdr) || header.e_shnum == 0 ||
        header.e_shnum > kMaxSections) {
        return fail(ErrorKind::kInvalid, "no section headers in this file");
    }
    auto headers = FixedArray<Shdr>::make(header.e_shnum);
    if (!headers) {
        return tl::unexpected(headers.error());
    }
    if (auto status =
            read_at(fd, header.e_shoff, headers->data(), header.e_shnum * sizeof(Shdr), budget);
        !status) {
        return tl::unexpected(status.error());
    }
    return Sections{std::move(*headers), header.e_shnum, header.e_shstrndx};
}

}  // namespace

Result<ElfRange> find_section_in_file(int fd, std::uintptr_t bias, std::string_view name,
                                      ReadBudget& budget) {
    const auto sections = read_sections(fd, budget);
    if (!sections) {
        return tl::unexpected(sections.error());
    }
    if (sections->names_index >= sections->count) {
        return fail(ErrorKind::kInvalid, "no section names in this file");
    }
    const auto names = read_table(fd, sections->headers[sections->names_index], budget);
    if (!names) {
        return tl::unexpected(names.error());
    }
    for (std::size_t i = 0; i < sections->count; ++i) {
        const Shdr& section = sections->headers[i];
        if ((section.sh_flags & SHF_ALLOC) != 0 && is_name(*names, section.sh_name, name)) {
            return ElfRange{Address(section.sh_addr + bias), section.sh_size};
        }
    }
    return fail(ErrorKind::kInvalid, "no such section");
}

Result<ElfRange> find_section_in_file(int fd, std::uintptr_t bias, std::string_view name) {
    ReadBudget budget(kSymbolFileLimits);
    return find_section_in_file(fd, bias, name, budget);
}

Status find_symbols_in_file(int fd, std::uintptr_t bias, std::span<WantedSymbol> wanted,
                            ReadBudget& budget) {
    const auto sections = read_sections(fd, budget);
    if (!sections) {
        return tl::unexpected(sections.error());
    }
    std::size_t index = 0;
    while (index < sections->count && !is_symbol_table(sections->headers[index])) {
        ++index;
    }
    if (index == sections->count || sections->headers[index].sh_link >= sections->count) {
        return fail(ErrorKind::kInvalid, "no symbol table in this file");
    }
    const auto symbols = read_table(fd, sections->headers[index], budget);
    if (!symbols) {
        return tl::unexpected(symbols.error());
    }
    const auto strings =
        read_table(fd, sections->headers[sections->headers[index].sh_link], budget);
    if (!strings) {
        return tl::unexpected(strings.error());
    }
    const std::size_t count = symbols->capacity() / sizeof(Sym);
    std::size_t missing = wanted.size();
    for (std::size_t i = 0; i < count && missing > 0; ++i) {
        if (i % kSymbolsBetweenLooks == 0 && !budget.has_time()) {
            return fail(ErrorKind::kBoundExceeded, "the tables of its files take too long to read");
        }
        Sym symbol;
        std::memcpy(&symbol, symbols->data() + i * sizeof(Sym), sizeof(symbol));
        const unsigned char type = symbol.st_info & 0xf;
        if (symbol.st_shndx == SHN_UNDEF || symbol.st_value == 0 || type == STT_TLS) {
            continue;
        }
        for (WantedSymbol& one : wanted) {
            if (!one.found && is_name(*strings, symbol.st_name, one.name)) {
                one.found =
                    ElfSymbol{Address(symbol.st_value + bias), symbol.st_size,
                              type == STT_FUNC || type == STT_GNU_IFUNC, type == STT_GNU_IFUNC};
                --missing;
            }
        }
    }
    return {};
}

Result<ElfSymbol> find_symbol_in_file(int fd, std::uintptr_t bias, std::string_view name,
                                      ReadBudget& budget) {
    WantedSymbol wanted{name, {}};
    if (auto status = find_symbols_in_file(fd, bias, {&wanted, 1}, budget); !status) {
        return tl::unexpected(status.error());
    }
    if (!wanted.found) {
        return fail(ErrorKind::kInvalid, "no such symbol");
    }
    return *wanted.found;
}

Result<ElfSymbol> find_symbol_in_file(int fd, std::uintptr_t bias, std::string_view name) {
    ReadBudget budget(kSymbolFileLimits);
    return find_symbol_in_file(fd, bias, name, budget);
}

}  // namespace echion
