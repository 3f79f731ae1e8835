#include "platform/program_file.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace echion {
namespace {

#if defined(__x86_64__) || defined(__i386__)
constexpr std::array<unsigned, 2> kFamily = {EM_386, EM_X86_64};
#else
constexpr std::array<unsigned, 2> kFamily = {EM_ARM, EM_AARCH64};
#endif

template <typename T>
bool copy_at(std::span<const std::byte> head, std::size_t at, T& into) {
    if (at > head.size() || head.size() - at < sizeof(T)) {
        return false;
    }
    std::memcpy(&into, head.data() + at, sizeof(T));
    return true;
}

template <typename Header, typename ProgramHeader>
bool is_static(std::span<const std::byte> head) {
    Header elf;
    if (!copy_at(head, 0, elf)) {
        return false;
    }
    for (std::size_t i = 0; i < elf.e_phnum; ++i) {
        ProgramHeader program;
        const std::size_t at = static_cast<std::size_t>(elf.e_phoff) + i * sizeof(program);
        if (!copy_at(head, at, program) || program.p_type == PT_INTERP) {
            return false;
        }
    }
    return true;
}

}  // namespace

ProgramFile parse_program_file(std::span<const std::byte> head) {
    ProgramFile file;
    // As far as both classes' headers are the same.
    unsigned char ident[EI_NIDENT];
    std::uint16_t machine = 0;
    if (!copy_at(head, 0, ident) || std::memcmp(ident, ELFMAG, SELFMAG) != 0 ||
        !copy_at(head, offsetof(Elf32_Ehdr, e_machine), machine)) {
        return file;
    }
    static_assert(offsetof(Elf32_Ehdr, e_machine) == offsetof(Elf64_Ehdr, e_machine));
    if (ident[EI_DATA] != ELFDATA2LSB || std::ranges::find(kFamily, machine) == kFamily.end()) {
        file.program_class = ProgramClass::kOtherMachine;
        return file;
    }
    const bool is_64_bit = ident[EI_CLASS] == ELFCLASS64;
    file.program_class =
        is_64_bit == (sizeof(void*) == 8) ? ProgramClass::kNative : ProgramClass::kOtherWidth;
    file.is_static = is_64_bit ? is_static<Elf64_Ehdr, Elf64_Phdr>(head)
                               : is_static<Elf32_Ehdr, Elf32_Phdr>(head);
    return file;
}

}  // namespace echion
