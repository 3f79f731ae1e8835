#include "platform/elf_image.h"

#include <dlfcn.h>
#include <elf.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <random>
#include <vector>

#include "base/unique_fd.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"
#include "test_memory.h"

namespace echion {
namespace {

Address address_of(const void* pointer) {
    return Address(reinterpret_cast<std::uintptr_t>(pointer));
}

/// The loaded object that holds `address`, as the dynamic loader sees it.
Address loader_base(const void* address) {
    Dl_info info{};
    EXPECT_NE(dladdr(address, &info), 0);
    return address_of(info.dli_fbase);
}

class OwnImages : public testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(reader_.open(getpid(), Address())); }
    ProcessReader reader_;
};

TEST_F(OwnImages, SymbolsAreWhereTheLoaderFindsThem) {
    for (const char* name : {"malloc", "free", "dlsym", "pthread_create", "environ"}) {
        void* expected = dlsym(RTLD_DEFAULT, name);
        ASSERT_NE(expected, nullptr) << name;
        const auto image = ElfImage::read(reader_, loader_base(expected));
        ASSERT_TRUE(image) << name;
        const auto symbol = image->find_symbol(reader_, name);
        ASSERT_TRUE(symbol) << name;
        EXPECT_EQ(symbol->address, address_of(expected)) << name;
    }
}

TEST_F(OwnImages, AbsentSymbolIsInvalid) {
    const auto image = ElfImage::read(reader_, loader_base(dlsym(RTLD_DEFAULT, "malloc")));
    ASSERT_TRUE(image);
    const auto symbol = image->find_symbol(reader_, "no_such_symbol_anywhere");
    ASSERT_FALSE(symbol);
    EXPECT_EQ(symbol.error().kind, ErrorKind::kInvalid);
}

TEST_F(OwnImages, ExecutableHasTextDataAndUnwindTables) {
    const auto image = ElfImage::read(reader_, loader_base(reinterpret_cast<void*>(&address_of)));
    ASSERT_TRUE(image);
    static int datum = 1;
    EXPECT_TRUE(image->text().contains(address_of(reinterpret_cast<void*>(&address_of))));
    EXPECT_TRUE(image->data().contains(address_of(&datum)));
    EXPECT_NE(image->eh_frame_header().size_bytes, 0U);
    EXPECT_TRUE(image->has_interpreter());
}

TEST_F(OwnImages, FileHasSymbolsThatMemoryHasNot) {
    ASSERT_TRUE(for_each_module(kOwnProcess, [&](const MappedRange& range) {
        const auto image = ElfImage::read(reader_, range.start);
        if (!image || !image->has_interpreter()) {
            return true;
        }
        const auto file = open_mapped_file(getpid(), range);
        EXPECT_TRUE(file);
        const auto main = find_symbol_in_file(file->get(), image->bias(), "_start");
        EXPECT_TRUE(main);
        EXPECT_EQ(main->address, image->entry());
        const auto text = find_section_in_file(file->get(), image->bias(), ".text");
        EXPECT_TRUE(text);
        EXPECT_TRUE(text->contains(image->entry()));
        EXPECT_FALSE(find_section_in_file(file->get(), image->bias(), ".tex"));
        return false;
    }));
}

/// A minimal object in test memory: one segment, a dynamic section, DT_GNU_HASH or DT_HASH.
class MadeImage : public testing::Test {
  protected:
    static constexpr std::uintptr_t kBase = 0x40000000;
    static constexpr std::size_t kSize = 0x3000;
    static constexpr std::size_t kDynamic = 0x400, kSymbols = 0x600, kStrings = 0x800,
                                 kHash = 0xa00;

    void SetUp() override {
        memory_.map(Address(kBase), kSize);
        ElfW(Ehdr) header{};
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_type = ET_DYN;
#if defined(__x86_64__)
        header.e_machine = EM_X86_64;
#elif defined(__i386__)
        header.e_machine = EM_386;
#else
        header.e_machine = EM_AARCH64;
#endif
        header.e_phoff = sizeof(header);
        header.e_phentsize = sizeof(ElfW(Phdr));
        header.e_phnum = 2;
        put(0, header);
        ElfW(Phdr) load{};
        load.p_type = PT_LOAD;
        load.p_flags = PF_R | PF_X;
        load.p_memsz = kSize;
        put(sizeof(header), load);
        ElfW(Phdr) dynamic{};
        dynamic.p_type = PT_DYNAMIC;
        dynamic.p_vaddr = kDynamic;
        dynamic.p_memsz = 8 * sizeof(ElfW(Dyn));
        put(sizeof(header) + sizeof(load), dynamic);
        put_dynamic(0, DT_SYMTAB, kSymbols);
        put_dynamic(1, DT_STRTAB, kStrings);
        put_dynamic(2, DT_STRSZ, 0x100);
        put_dynamic(3, DT_HASH, kHash);
        // Symbol 1 is "abc"; the chain of the only bucket leads to it.
        ElfW(Sym) symbol{};
        symbol.st_name = 1;
        symbol.st_info = STT_FUNC;
        symbol.st_shndx = 1;
        symbol.st_value = 0x1234;
        put(kSymbols + sizeof(symbol), symbol);
        memory_.write_bytes(Address(kBase + kStrings), "\0abc", 5);
        put_hash({1, 2, 1, 0, 0});
    }

    template <typename T>
    void put(std::size_t offset, const T& value) {
        ASSERT_TRUE(memory_.write_bytes(Address(kBase + offset), &value, sizeof(value)));
    }
    void put_dynamic(std::size_t index, std::uintptr_t tag, std::uintptr_t value) {
        put(kDynamic + index * sizeof(ElfW(Dyn)), std::array<std::uintptr_t, 2>{tag, value});
    }
    void put_hash(const std::vector<std::uint32_t>& words) {
        memory_.write_bytes(Address(kBase + kHash), words.data(), words.size() * 4);
    }
    Result<ElfSymbol> find(std::string_view name) {
        const auto image = ElfImage::read(memory_, Address(kBase));
        return image ? image->find_symbol(memory_, name)
                     : Result<ElfSymbol>(tl::unexpected(image.error()));
    }

    test::TestMemory memory_;
};

TEST_F(MadeImage, FindsASymbolThroughTheOldHashTable) {
    const auto symbol = find("abc");
    ASSERT_TRUE(symbol);
    EXPECT_EQ(symbol->address, Address(kBase + 0x1234));
    EXPECT_FALSE(find("abd"));
    EXPECT_FALSE(find("ab"));
}

TEST_F(MadeImage, HashChainThatCirclesIsBounded) {
    put_hash({1, 3, 2, 0, 0, 2});  // 2 → 2
    const auto symbol = find("abc");
    ASSERT_FALSE(symbol);
    EXPECT_EQ(symbol.error().kind, ErrorKind::kBoundExceeded);
}

TEST_F(MadeImage, GnuHashChainWithoutAnEndIsBounded) {
    put_dynamic(3, DT_GNU_HASH, kHash);
    // One bucket, no bloom filter, chains of zero: never an end, until memory ends.
    put_hash({1, 1, 0, 0, 1});
    EXPECT_FALSE(find("abc"));
}

TEST_F(MadeImage, BudgetEndsALookUpInTheMiddleOfAChain) {
    put_hash({1, 3, 2, 0, 0, 2});  // 2 → 2
    const auto image = ElfImage::read(memory_, Address(kBase));
    ASSERT_TRUE(image);
    ReadBudget budget({UINT64_MAX, 100, 1'000 * kNanosPerSecond});
    BudgetedReader reader(memory_, budget);
    memory_.calls = 0;
    EXPECT_FALSE(image->find_symbol(reader, "abc"));
    EXPECT_TRUE(budget.is_over());
    EXPECT_EQ(memory_.calls, 100U);
}

/// A file of section headers: nothing but symbol tables, each with the same sparse 64 MiB.
class ManySymbolTables : public testing::Test {
  protected:
    static constexpr std::size_t kSections = 1022;
    static constexpr std::size_t kTableBytes = std::size_t{64} << 20;

    void SetUp() override {
        file_ = UniqueFd(memfd_create("tables", MFD_CLOEXEC));
        ASSERT_TRUE(file_);
        ElfW(Ehdr) header{};
        std::memcpy(header.e_ident, ELFMAG, SELFMAG);
        header.e_ident[EI_CLASS] = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;
        header.e_ident[EI_DATA] = ELFDATA2LSB;
        header.e_shoff = sizeof(header);
        header.e_shentsize = sizeof(ElfW(Shdr));
        header.e_shnum = kSections;
        std::vector<ElfW(Shdr)> sections(kSections);
        for (ElfW(Shdr) & section : sections) {
            section.sh_type = SHT_SYMTAB;
            section.sh_entsize = sizeof(ElfW(Sym));
            section.sh_offset = 1U << 20;
            section.sh_size = kTableBytes;
        }
        const std::size_t size = sections.size() * sizeof(sections[0]);
        ASSERT_EQ(pwrite(file_.get(), &header, sizeof(header), 0),
                  static_cast<ssize_t>(sizeof(header)));
        ASSERT_EQ(pwrite(file_.get(), sections.data(), size, sizeof(header)),
                  static_cast<ssize_t>(size));
        ASSERT_EQ(ftruncate(file_.get(), (1 << 20) + static_cast<off_t>(kTableBytes)), 0);
    }

    UniqueFd file_;
};

TEST_F(ManySymbolTables, OnlyTheFirstIsRead) {
    // Twice its size: of the table, and of its names.
    ReadBudget budget({2 * kTableBytes + (1U << 20), 1'000, 1'000 * kNanosPerSecond});
    std::array<WantedSymbol, 2> wanted{{{"one", {}}, {"two", {}}}};
    EXPECT_TRUE(find_symbols_in_file(file_.get(), 0, wanted, budget));
    EXPECT_FALSE(wanted[0].found || wanted[1].found);
    EXPECT_FALSE(budget.is_over());
}

TEST_F(ManySymbolTables, EndWithTheBudget) {
    ReadBudget budget({kTableBytes / 2, 1'000, 1'000 * kNanosPerSecond});
    const auto symbol = find_symbol_in_file(file_.get(), 0, "one", budget);
    ASSERT_FALSE(symbol);
    EXPECT_EQ(symbol.error().kind, ErrorKind::kBoundExceeded);
    const auto section = find_section_in_file(file_.get(), 0, ".text", budget);
    ASSERT_FALSE(section);
    EXPECT_EQ(section.error().kind, ErrorKind::kBoundExceeded) << "for good";
}

TEST_F(MadeImage, TablesOutsideTheObjectAreUnreadable) {
    put_dynamic(0, DT_SYMTAB, 0x7fff0000);
    EXPECT_FALSE(find("abc"));
}

TEST_F(MadeImage, EmptyHashTablesAreRefused) {
    put_hash({0, 0});
    EXPECT_FALSE(find("abc"));
    put_dynamic(3, DT_GNU_HASH, kHash);
    EXPECT_FALSE(find("abc"));
}

TEST_F(MadeImage, AnotherClassOrMachineIsUnsupported) {
    memory_.write<unsigned char>(Address(kBase + EI_CLASS),
                                 sizeof(void*) == 8 ? ELFCLASS32 : ELFCLASS64);
    const auto image = ElfImage::read(memory_, Address(kBase));
    ASSERT_FALSE(image);
    EXPECT_EQ(image.error().kind, ErrorKind::kUnsupportedVersion);
}

TEST_F(MadeImage, DamagedObjectsNeverHang) {
    std::mt19937 random(1);
    std::vector<std::byte> intact(kSize);
    ASSERT_TRUE(memory_.read_bytes(Address(kBase), intact.data(), kSize));
    for (int round = 0; round < 3000; ++round) {
        memory_.write_bytes(Address(kBase), intact.data(), kSize);
        for (int i = 0; i < 4; ++i) {
            memory_.write<std::uint8_t>(Address(kBase + random() % 0xb00),
                                        static_cast<std::uint8_t>(random()));
        }
        if (const auto image = ElfImage::read(memory_, Address(kBase))) {
            std::byte id[20];
            (void)image->find_symbol(memory_, "abc");
            (void)image->read_build_id(memory_, id, sizeof(id));
        }
    }
}

}  // namespace
}  // namespace echion
