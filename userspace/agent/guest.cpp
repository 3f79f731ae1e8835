#include "agent/guest.h"

#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/clock.h"
#include "platform/same_cpu.h"

namespace echion::agent {
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
    GuestFacts& facts;
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
    GuestFacts& facts = out.facts;
    for (std::size_t i = 0; i < info.dlpi_phnum; ++i) {
        const auto& header = info.dlpi_phdr[i];
        if (header.p_type == PT_TLS) {
            facts.tls_bytes += header.p_memsz + header.p_align;
        }
        if (stays && header.p_type == PT_LOAD && (header.p_flags & PF_W) != 0 &&
            facts.segment_count < facts.segments.size()) {
            facts.segments[facts.segment_count++] = {Address(info.dlpi_addr + header.p_vaddr),
                                                     header.p_memsz};
        }
    }
}

}  // namespace

std::size_t GuestFacts::static_bytes_from(Address address) const {
    for (std::size_t i = 0; i < segment_count; ++i) {
        const std::size_t offset = address - segments[i].begin;
        if (offset < segments[i].size_bytes) {
            return segments[i].size_bytes - offset;
        }
    }
    return 0;
}

GuestFacts collect_guest_facts() {
    GuestFacts facts;
    facts.asked_ns = monotonic_ns();
    facts.rseq_offset = SameCpu::find_rseq_offset();
    facts.used_cpu_ns = read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    const char* no_color = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    facts.wants_colours = (no_color == nullptr || *no_color == '\0') &&
                          (terminal == nullptr || std::strcmp(terminal, "dumb") != 0);
    Collection collection{facts, {}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* argument) {
            collect(*info, *static_cast<Collection*>(argument));
            return 0;
        },
        &collection);
    return facts;
}

}  // namespace echion::agent
