#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace echion {

/// Kind of a program, from its file's ELF header.
enum class ProgramClass : std::uint8_t {
    kUnknown,     ///< its file cannot be read, or is no ELF object
    kNative,      ///< class and machine of this build
    kOtherWidth,  ///< the same family of machine, 32 bits for a 64-bit build or the reverse
    kOtherMachine,
};

/// What the first bytes of a program's file tell.
struct ProgramFile {
    ProgramClass program_class = ProgramClass::kUnknown;
    /// It asks for no dynamic loader (PT_INTERP). False where that cannot be told from these bytes.
    bool is_static = false;
};

/// The program headers of any real program lie within the first page. Pure.
ProgramFile parse_program_file(std::span<const std::byte> head);

}  // namespace echion
