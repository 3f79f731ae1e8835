// How the agent comes into a process: preloaded (the constructor; where Python is loaded later, its
// start: late_python.h), or injected (echion_attach).

#include <unistd.h>

#include <cstdint>
#include <optional>

#include "agent/agent_state.h"
#include "agent/agent_threads.h"
#include "agent/late_python.h"
#include "base/attach_part.h"
#include "base/unique_fd.h"
#include "cpython/locate.h"
#include "platform/own_modules.h"
#include "platform/own_thread.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"
#include "platform/start_watch.h"

namespace echion::agent {

constinit Agent g_agent;

namespace {

/// Looks for Python: its runtime, kSomewhere if it is not known where that is, 0 when this is
/// another program. `found` only if its runtime is known.
std::uintptr_t find_python(std::optional<cpython::LocatedRuntime>& found) {
    ProcessReader reader;
    cpython::LocatedRuntime located;
    if (!reader.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(&located)))) {
        return kSomewhere;  // the sampler will say what is wrong
    }
    const Status status = cpython::locate_runtime(reader, kOwnProcess, located);
    if (!status && status.error().kind == ErrorKind::kNotPython) {
        return 0;
    }
    if (status) {
        found.emplace(located);
    }
    return located.view.runtime ? located.view.runtime.value() : kSomewhere;
}

__attribute__((constructor)) void on_load() {
    prepare_start_watch();
    Rendezvous rendezvous = Rendezvous::find();
    if (rendezvous.is_abandoned(0)) {
        rendezvous.close();  // of a run that was over before this program was started
    }
    // Not where it was opened later by an injection into a process that still has the environment
    // of an earlier launch.
    if (!rendezvous.is_there() || !is_preloaded(reinterpret_cast<const void*>(&on_load))) {
        return;
    }
    // In a program that is not Python the agent does nothing, and is inherited by what it starts.
    std::optional<cpython::LocatedRuntime> found;
    const std::uintptr_t python = find_python(found);
    g_agent.python.store(python);
    g_agent.rendezvous = rendezvous;
    watch_for_python();
    if (python == 0) {
        return;
    }
    StartRequest request;
    request.rendezvous = rendezvous;
    request.found = found;
    const int error = start_threads(request);
    if (error != 0) {
        report_failure(rendezvous, error);
    }
}

}  // namespace
}  // namespace echion::agent

/// Entry point for an injection: starts sampling for the program at the other end of `control_fd`,
/// a SOCK_SEQPACKET socket that belongs to the agent from then on (it is closed also on failure).
/// Returns within a second or so: 0, or an errno (EBUSY: already sampling). Any thread, in no lock
/// of the C library or its loader. `part` is an AttachPart.
extern "C" __attribute__((visibility("default"))) int echion_attach(int control_fd, int part) {
    using namespace echion;
    const std::uint32_t helper_tid = own_thread_id();
    if (part == kAgentBeside) {
        agent::StartRequest request;
        request.is_apart = true;
        request.helper_tid = helper_tid;
        return agent::start_threads(request);
    }
    UniqueFd control(control_fd);
    int error = 0;
    if (part == kAgentApart) {
        error = agent::start_apart(control.get(), helper_tid);
    } else {
        agent::StartRequest request;
        request.control_fd = control.get();
        request.helper_tid = helper_tid;
        error = agent::start_threads(request);
    }
    if (error == 0) {
        (void)control.release();
    }
    return error;
}
