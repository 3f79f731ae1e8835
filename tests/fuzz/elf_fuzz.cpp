// The readers of ELF objects, whose bytes are the target's.
//
//      input:  u8 which reader, then the object: 0 in memory, mapped at kBase; 1 in a file

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <span>

#include "base/unique_fd.h"
#include "fuzz_support.h"
#include "platform/elf_image.h"

namespace {

using namespace echion;
using fuzz::require;

constexpr std::uintptr_t kBase = 0x10000;
// A step along a chain reads the chain's next word, and of a symbol whose hash matches its entry,
// its name and its version; the table's header and bucket come before.
constexpr std::size_t kMaxReadsOfLookup = 4 * kMaxHashChain + 4;
// Headers, then the dynamic section entry by entry.
constexpr std::size_t kMaxReadsOfImage = kMaxDynamicEntries + 2;

void read_image(std::span<const std::uint8_t> bytes) {
    fuzz::ImageReader reader(kBase, bytes);
    const auto image = ElfImage::read(reader, Address(kBase));
    require(reader.calls <= kMaxReadsOfImage);
    if (!image) {
        return;
    }
    std::byte id[32];
    if (const auto size = image->read_build_id(reader, id, sizeof(id))) {
        require(*size <= sizeof(id));
    }
    for (const char* name : {"_PyRuntime", "Py_Version", "x"}) {
        reader.calls = 0;
        (void)image->find_symbol(reader, name);
        require(reader.calls <= kMaxReadsOfLookup);
    }
}

void read_file(std::span<const std::uint8_t> bytes) {
    static const UniqueFd file(memfd_create("object", MFD_CLOEXEC));
    require(file && ftruncate(file.get(), 0) == 0);
    require(pwrite(file.get(), bytes.data(), bytes.size(), 0) ==
            static_cast<ssize_t>(bytes.size()));
    for (const char* name : {"_PyRuntime", "x"}) {
        (void)find_symbol_in_file(file.get(), 0x1000, name);
    }
    (void)find_section_in_file(file.get(), 0x1000, ".PyRuntime");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::Input input(data, size);
    if (input.take<std::uint8_t>() % 2 == 0) {
        read_image(input.rest());
    } else {
        read_file(input.rest());
    }
    return 0;
}
