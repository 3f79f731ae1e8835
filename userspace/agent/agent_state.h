#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>

#include "agent/channel.h"
#include "agent/guest.h"
#include "agent/start_outcome.h"
#include "platform/wake_word.h"

namespace echion::agent {

struct Assignment;

/// Stands for a CPython runtime whose place is not known.
constexpr std::uintptr_t kSomewhere = 1;

/// The state of the agent in this process. A global: constructors, fork handlers and entry points
/// have nowhere else to find it.
struct Agent {
    std::atomic<bool> is_active{false};  // the agent's threads exist, or are being made
    // The control channel as far as it is among the program's descriptors, for the child of a fork
    // to close.
    std::atomic<int> channel_fd{-1};
    SocketId channel_id;  // written before channel_fd
    std::atomic<bool> handles_fork{false};
    StartOutcome start;  // of the threads that are being made
    // Of an IoThread that waits for its sampler, which is made apart.
    std::atomic<Assignment*> waiting{nullptr};

    // Of a preloaded agent.
    Rendezvous rendezvous;  // written before starts of Python are watched
    // The CPython runtime (_PyRuntime) that a sampler has been made for in this process, also if
    // it has ended since; kSomewhere; 0 for none.
    std::atomic<std::uintptr_t> python{0};
    WakeWord next_python{kNoNextPython};  // NextPython; for GuestFacts
    std::atomic<pid_t> sampler_tid{0};
    std::atomic<std::uint32_t> python_starts{0};  // noticed; for GuestFacts
};
// Initialised by the compiler: starts of Python may be noticed before constructors run.
extern constinit Agent g_agent;

}  // namespace echion::agent
