#pragma once

#include <cstdint>

namespace echion {

/// Wakes the calling thread at the time that it asks for, and not up to 50 µs later to join the
/// wake-up with others.
void set_exact_wakeups();

/// Asks the scheduler for a short time slice, exact wake-ups and, where this process may have it, a
/// higher priority, for the calling thread. Returns by how much its nice value is lower now.
std::int32_t set_low_latency();

/// Where this process may have it, schedules the calling thread before all ordinary ones and behind
/// all other real-time ones; if it is a real-time thread already (as the one that started it), one
/// priority higher, as it would not get the CPU from its program's threads. A nice value counts
/// among the tasks of one group only, and with autogroups (sched(7)) each session is one: beside
/// busy programs of other sessions a sampler with any nice value runs when its program does. Not
/// where the program's own nice value is above 0: it was put behind others, with all its threads.
/// `raised_by`: what set_low_latency() returned. The caller must leave others their share of the
/// CPU.
bool become_realtime(std::int32_t raised_by);
/// Whether the calling thread has a real-time policy, be it that of the thread that started it.
bool is_realtime();

}  // namespace echion
