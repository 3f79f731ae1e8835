// The parsers of what the kernel and the target's mapped files say of a process.
//
//      input:  u8 which parser, then its text or memory
//              0: a line of the memory map   1: a status file   2: a syscall file
//              3: data that may hold Python's version   4: an ELF image, mapped at kBase

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

#include "cpython/locate.h"
#include "memory/reader.h"
#include "platform/elf_image.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"

namespace {

using namespace echion;

constexpr std::uintptr_t kBase = 0x10000;
// What one lookup may read of a small image: a chain of the longest length, and the headers.
constexpr std::size_t kMaxReads = 2 * kMaxHashChain + kMaxDynamicEntries + 1000;

class BytesReader final : public MemoryReader {
  public:
    explicit BytesReader(std::string_view bytes) : bytes_(bytes) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        std::size_t done = 0;
        for (const ReadRequest& request : requests) {
            const std::size_t offset = request.from - Address(kBase);
            if (offset > bytes_.size() || request.size_bytes > bytes_.size() - offset) {
                break;
            }
            std::memcpy(request.into, bytes_.data() + offset, request.size_bytes);
            ++done;
        }
        reads += 1;
        return done;
    }

    std::size_t reads = 0;

  private:
    std::string_view bytes_;
};

void read_image(std::string_view bytes) {
    BytesReader reader(bytes);
    const auto image = ElfImage::read(reader, Address(kBase));
    if (!image) {
        return;
    }
    std::byte id[32];
    (void)image->read_build_id(reader, id, sizeof(id));
    for (const char* name : {"_PyRuntime", "Py_Version", "x"}) {
        reader.reads = 0;
        (void)image->find_symbol(reader, name);
        if (reader.reads > kMaxReads) {
            std::abort();
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    char path[256];
    switch (data[0] % 5) {
        case 0:
            if (const auto range = parse_mapped_range(text)) {
                (void)unescape_path(range->path, path, sizeof(path));
            }
            break;
        case 1:
            (void)parse_process_status(text);
            break;
        case 2:
            (void)parse_blocked_call(text);
            break;
        case 3:
            (void)cpython::parse_version_text(text.data(), text.size());
            break;
        default:
            read_image(text);
            break;
    }
    return 0;
}
