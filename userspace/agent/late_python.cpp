#include "agent/late_python.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "agent/agent_state.h"
#include "agent/agent_threads.h"
#include "memory/address.h"
#include "platform/own_modules.h"
#include "platform/own_thread.h"
#include "platform/start_watch.h"
#include "platform/wake_word.h"

namespace echion::agent {
namespace {

/// Makes the agent's threads for a Python that has come when the program was running already.
void start_late() {
    Rendezvous rendezvous = g_agent.rendezvous;
    if (rendezvous.is_abandoned(0)) {
        watch_starts(nullptr);
        rendezvous.close();
    }
    if (!rendezvous.is_there()) {
        return;
    }
    StartRequest request;
    request.rendezvous = rendezvous;
    request.is_late = true;
    const int error = start_threads(request);
    if (error != 0 && error != EBUSY) {
        report_failure(rendezvous, error);
    }
}

/// The CPython runtime at `python` is about to start, on the calling thread.
void on_python_start(std::uintptr_t python) {
    g_agent.python_starts.fetch_add(1);
    std::uintptr_t known = g_agent.python.load();
    if (known == python || known == kSomewhere ||
        !g_agent.python.compare_exchange_strong(known, python)) {
        return;
    }
    g_agent.next_python.store(kNextPythonWaits);
    if (start_next() || is_loaded(Address(known))) {
        return;  // where there are two, this one is sampled when the other has ended
    }
    // A sampler that the kernel wakes for CPU time may wait for long.
    if (const pid_t tid = g_agent.sampler_tid.load(); tid != 0) {
        signal_thread(getpid(), tid, SIGIO);
    }
    wait_while(g_agent.next_python, kNextPythonWaits, kSettlingNs);
    wait_while(g_agent.next_python, kNextPythonComes, kSettlingNs);
}

/// What lies in an object that exports a CPython runtime may be about to start that.
void on_start(const void* code) {
    if (const Address runtime = find_exported_beside(code, "_PyRuntime")) {
        on_python_start(runtime.value());
    }
}

}  // namespace

void watch_for_python() { watch_starts(on_start); }

bool start_next() {
    std::uint32_t expected = kNextPythonWaits;
    if (g_agent.is_active.load() ||
        !g_agent.next_python.compare_exchange_strong(expected, kNextPythonComes)) {
        return false;
    }
    start_late();
    expected = kNextPythonComes;  // unless another one waits by now
    if (g_agent.next_python.compare_exchange_strong(expected, kNoNextPython)) {
        wake_all(g_agent.next_python);
    }
    return true;
}

}  // namespace echion::agent
