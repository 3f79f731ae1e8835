#include "agent/guest.h"

#include <cstdlib>
#include <cstring>

#include "base/clock.h"
#include "platform/same_cpu.h"

namespace echion::agent {

GuestFacts collect_guest_facts() {
    GuestFacts facts;
    facts.asked_ns = monotonic_ns();
    facts.thread_area_offset = SameCpu::find_thread_area_offset();
    facts.used_cpu_ns = read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    const char* no_color = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    facts.wants_colours = (no_color == nullptr || *no_color == '\0') &&
                          (terminal == nullptr || std::strcmp(terminal, "dumb") != 0);
    find_static_data(facts.static_data);
    return facts;
}

}  // namespace echion::agent
