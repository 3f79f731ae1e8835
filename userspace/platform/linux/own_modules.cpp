#include "platform/own_modules.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>

#include "memory/reader.h"
#include "platform/elf_image.h"

namespace echion {
namespace {

std::string_view file_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

/// What the program is linked with by name (DT_NEEDED): loaded before it began, and never closed.
class LinkedObjects {
  public:
    /// `program`: the first object that dl_iterate_phdr(3) tells of.
    void read(const dl_phdr_info& program) {
        const ElfW(Dyn)* dynamic = nullptr;
        for (std::size_t i = 0; i < program.dlpi_phnum; ++i) {
            const auto& header = program.dlpi_phdr[i];
            if (header.p_type == PT_DYNAMIC) {
                dynamic = reinterpret_cast<const ElfW(Dyn)*>(program.dlpi_addr + header.p_vaddr);
            }
        }
        std::uintptr_t strings = 0;
        for (const auto* entry = dynamic; entry != nullptr && entry->d_tag != DT_NULL; ++entry) {
            if (entry->d_tag == DT_STRTAB) {
                // glibc's loader has turned it into an address, musl's has not.
                const std::uintptr_t place = entry->d_un.d_ptr;
                strings = place < program.dlpi_addr ? place + program.dlpi_addr : place;
            }
        }
        for (const auto* entry = dynamic;
             strings != 0 && entry != nullptr && entry->d_tag != DT_NULL; ++entry) {
            if (entry->d_tag == DT_NEEDED && count_ < names_.size()) {
                names_[count_++] =
                    file_name(reinterpret_cast<const char*>(strings + entry->d_un.d_val));
            }
        }
    }

    /// Whether the object is the first of its name, and linked. Another one of the same name may
    /// have been opened later.
    bool take(const char* path) {
        if (path == nullptr || *path == '\0') {
            return false;
        }
        const auto name = std::find(names_.begin(), names_.begin() + count_, file_name(path));
        if (name == names_.begin() + count_) {
            return false;
        }
        *name = {};
        return true;
    }

  private:
    std::array<std::string_view, 128> names_{};
    std::size_t count_ = 0;
};

struct Collection {
    StaticData& data;
    LinkedObjects linked;
    bool is_first = true;
};

void collect(const dl_phdr_info& info, Collection& out) {
    const bool is_program = out.is_first;
    if (is_program) {
        out.linked.read(info);
        out.is_first = false;
    }
    const bool stays = is_program || out.linked.take(info.dlpi_name);
    StaticData& data = out.data;
    for (std::size_t i = 0; i < info.dlpi_phnum; ++i) {
        const auto& header = info.dlpi_phdr[i];
        if (header.p_type == PT_TLS) {
            data.tls_bytes += header.p_memsz + header.p_align;
        }
        if (stays && header.p_type == PT_LOAD && (header.p_flags & PF_W) != 0 &&
            data.segment_count < data.segments.size()) {
            data.segments[data.segment_count++] = {Address(info.dlpi_addr + header.p_vaddr),
                                                   header.p_memsz};
        }
    }
}

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

const char* const kPreloadVariable = "LD_PRELOAD";

std::size_t StaticData::bytes_from(Address address) const {
    for (std::size_t i = 0; i < segment_count; ++i) {
        const std::size_t offset = address - segments[i].begin;
        if (offset < segments[i].size_bytes) {
            return segments[i].size_bytes - offset;
        }
    }
    return 0;
}

void find_static_data(StaticData& into) {
    Collection collection{into, {}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* argument) {
            collect(*info, *static_cast<Collection*>(argument));
            return 0;
        },
        &collection);
}

bool is_loaded(Address address) {
    Search search{address.value(), 0, {}};
    return find_object(search);
}

Address find_exported_beside(const void* code, const char* name) {
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
    const auto symbol = image->find_symbol(object, name);
    return symbol ? symbol->address : Address();
}

bool is_preloaded(const void* code) {
    const char* preload = std::getenv(kPreloadVariable);
    Dl_info info{};
    return preload != nullptr && dladdr(code, &info) != 0 && info.dli_fname != nullptr &&
           std::strstr(preload, info.dli_fname) != nullptr;
}

}  // namespace echion
