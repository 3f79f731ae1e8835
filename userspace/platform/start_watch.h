#pragma once

namespace echion {

/// Notices that a CPython runtime may be about to start in this process: one that was loaded when
/// the program was running already. The system's body says what it goes by, and what it misses.
/// Linked into the agent's library alone.

/// Called on the thread that may be about to start one, with an address that this thread will
/// return to in the code that does so. errno and the thread's cancellation are kept for it. May be
/// called by several threads at a time.
using StartListener = void (*)(const void* code);

/// First thing of all in the process, as it changes what dlerror(3) says.
void prepare_start_watch();
/// Who is called from now on, in this process and in the children that it forks; null for nobody.
/// Not in a child where the loader's lock may have stayed taken.
void watch_starts(StartListener listener);

}  // namespace echion
