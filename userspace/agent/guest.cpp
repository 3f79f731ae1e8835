#include "agent/guest.h"

#include <link.h>

#include <cstdlib>
#include <cstring>

#include "base/clock.h"
#include "platform/same_cpu.h"

namespace echion::agent {

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
    facts.rseq_offset = SameCpu::find_rseq_offset();
    facts.used_cpu_ns = read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    const char* no_color = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    facts.wants_colours = (no_color == nullptr || *no_color == '\0') &&
                          (terminal == nullptr || std::strcmp(terminal, "dumb") != 0);
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* result) {
            auto& out = *static_cast<GuestFacts*>(result);
            for (std::size_t i = 0; i < info->dlpi_phnum; ++i) {
                const auto& header = info->dlpi_phdr[i];
                if (header.p_type == PT_TLS) {
                    out.tls_bytes += header.p_memsz + header.p_align;
                }
                if (header.p_type == PT_LOAD && (header.p_flags & PF_W) != 0 &&
                    out.segment_count < out.segments.size()) {
                    out.segments[out.segment_count++] = {Address(info->dlpi_addr + header.p_vaddr),
                                                         header.p_memsz};
                }
            }
            return 0;
        },
        &facts);
    return facts;
}

}  // namespace echion::agent
