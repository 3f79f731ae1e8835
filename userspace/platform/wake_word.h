#pragma once

#include <atomic>
#include <cstdint>

namespace echion {

/// What the threads of one process wait for each other with; no lock, so that a fork leaves none
/// taken. Any thread.
using WakeWord = std::atomic<std::uint32_t>;
static_assert(sizeof(WakeWord) == sizeof(std::uint32_t) && WakeWord::is_always_lock_free);

/// Waits while `word` is `value`, at most `timeout_ns`; for ever when that is negative. False at
/// the time's end.
bool wait_while(WakeWord& word, std::uint32_t value, std::int64_t timeout_ns = -1);

/// Wakes all who wait for `word`. It need not be there any more.
void wake_all(WakeWord& word);

/// Sets `word` and wakes all who wait for it.
void set_and_wake(WakeWord& word, std::uint32_t value);

}  // namespace echion
