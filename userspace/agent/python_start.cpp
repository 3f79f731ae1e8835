#include "agent/python_start.h"

#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "memory/reader.h"
#include "platform/elf_image.h"

namespace echion::agent {
namespace {

using Headers = std::span<const ElfW(Phdr)>;

/// Whether a readable segment holds the whole range.
bool holds(Headers headers, std::uintptr_t bias, std::uintptr_t from, std::size_t size_bytes) {
    for (const auto& header : headers) {
        const std::uintptr_t offset = from - (bias + header.p_vaddr);
        if (header.p_type == PT_LOAD && (header.p_flags & PF_R) != 0 && offset < header.p_memsz &&
            size_bytes <= header.p_memsz - offset) {
            return true;
        }
    }
    return false;
}

/// Reads an object of this process, which the loader has mapped and which stays so.
class LoadedObject final : public MemoryReader {
  public:
    LoadedObject(std::uintptr_t bias, Headers headers) : bias_(bias), headers_(headers) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        std::size_t count = 0;
        for (const ReadRequest& request : requests) {
            if (!holds(headers_, bias_, request.from.value(), request.size_bytes)) {
                break;
            }
            std::memcpy(request.into, reinterpret_cast<const void*>(request.from.value()),
                        request.size_bytes);
            ++count;
        }
        return count;
    }

  private:
    std::uintptr_t bias_;
    Headers headers_;
};

struct Search {
    std::uintptr_t address;
    std::uintptr_t bias = 0;
    Headers headers;
};

/// Finds the object that is loaded at an address.
bool find_object(Search& search) {
    return dl_iterate_phdr(
               [](dl_phdr_info* info, std::size_t, void* argument) {
                   auto& wanted = *static_cast<Search*>(argument);
                   const Headers headers(info->dlpi_phdr, info->dlpi_phnum);
                   for (const auto& header : headers) {
                       if (header.p_type == PT_LOAD &&
                           wanted.address - (info->dlpi_addr + header.p_vaddr) < header.p_memsz) {
                           wanted.bias = info->dlpi_addr;
                           wanted.headers = headers;
                           return 1;
                       }
                   }
                   return 0;
               },
               &search) != 0;
}

}  // namespace

bool is_loaded(Address address) {
    Search search{address.value(), 0, {}};
    return find_object(search);
}

Address find_calling_python(const void* code) {
    Search search{reinterpret_cast<std::uintptr_t>(code), 0, {}};
    if (!find_object(search)) {
        return {};
    }
    LoadedObject object(search.bias, search.headers);
    const auto image = ElfImage::from_program_headers(object, search.bias, search.headers.data(),
                                                      search.headers.size());
    if (!image) {
        return {};
    }
    const auto runtime = image->find_symbol(object, "_PyRuntime");
    return runtime ? runtime->address : Address();
}

}  // namespace echion::agent
