#include "cli/agent_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include "platform/own_program.h"

namespace echion::cli {
namespace {

/// Where an installation has the agent, from this program's folder; cmake/EchionInstall.cmake.
constexpr char kAgentFolder[] = ECHION_AGENT_FOLDER;

}  // namespace

std::string find_agent() {
    const std::string program = find_own_program();
    if (program.empty()) {
        return {};
    }
    const std::string folder = program.substr(0, program.rfind('/'));
    for (const std::string& candidate :
         {folder + "/" + kAgentName, folder + "/" + kAgentFolder + "/" + kAgentName}) {
        if (access(candidate.c_str(), R_OK) == 0) {
            return candidate;
        }
    }
    return {};
}

std::string tell_missing_agent() {
    return fmt::format(
        "{} is neither beside this program nor in {} from there: the installation is "
        "not complete",
        kAgentName, kAgentFolder);
}

}  // namespace echion::cli
