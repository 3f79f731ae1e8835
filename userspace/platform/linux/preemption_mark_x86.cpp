#include <linux/rseq.h>

#include "platform/linux/preemption_mark.h"

// What must stand before an abort handler, as registered by glibc (sysdeps/unix/sysv/linux/x86,
// bits/rseq.h: RSEQ_SIG). The handler and the two bytes behind it are never run: the critical
// section that they describe is one that no thread is ever in.
asm(".pushsection .text\n"
    ".balign 16\n"
    ".long 0x53053053\n"
    ".globl echion_rseq_abort\n"
    ".hidden echion_rseq_abort\n"
    ".type echion_rseq_abort, @function\n"
    "echion_rseq_abort: ud2\n"
    ".globl echion_rseq_section\n"
    ".hidden echion_rseq_section\n"
    "echion_rseq_section: ud2\n"
    ".popsection\n");
extern "C" const char echion_rseq_abort[] __attribute__((visibility("hidden")));
extern "C" const char echion_rseq_section[] __attribute__((visibility("hidden")));

namespace echion {
namespace {

alignas(32) rseq_cs mark_section{};

}  // namespace

std::uintptr_t preemption_mark() {
    mark_section.start_ip = reinterpret_cast<std::uintptr_t>(echion_rseq_section);
    mark_section.post_commit_offset = 1;
    mark_section.abort_ip = reinterpret_cast<std::uintptr_t>(echion_rseq_abort);
    return reinterpret_cast<std::uintptr_t>(&mark_section);
}

}  // namespace echion
