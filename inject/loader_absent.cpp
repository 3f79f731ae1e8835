// In place of loader.cpp on machines whose registers nobody has described yet (arch.h).

#include "inject/loader.h"

namespace echion::inject {

void read_ahead(pid_t, StallGuard*) {}

tl::expected<Injection, InjectFailure> inject_agent(pid_t, const AgentImage&, const InjectLimits&) {
    return tl::unexpected(InjectFailure{
        {ErrorKind::kRefused, 0, "no attaching on this machine"},
        "this build of echion cannot attach yet on this kind of machine; launch the program with "
        "echion instead, or use echion -w"});
}

}  // namespace echion::inject
