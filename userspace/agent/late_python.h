#pragma once

#include <cstdint>

/// A Python that comes when the program is running already, and the next one in a process that has
/// been sampled before.
namespace echion::agent {

/// From now on starts of CPython in this process are noticed, and a sampler is made for one that
/// `Agent::python` does not name.
void watch_for_python();

/// Where no agent is active: makes the threads for the Python that waits for them, if one does. To
/// be called behind each change that can make both true; of all who notice it, one does it. Whether
/// this one did.
bool start_next();

}  // namespace echion::agent
