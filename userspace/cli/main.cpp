#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "cli/doctor.h"
#include "cli/message.h"
#include "cli/modes.h"
#include "cli/options.h"

namespace echion::cli {
namespace {

int refuse_missing(const char* what) {
    say("{} is not in this version yet", what);
    return kExitFailure;
}

int run(const Options& options) {
    if (options.doctor) {
        return run_doctor();
    }
    if (options.native) {
        return refuse_missing("native mode (-n)");
    }
    if (options.memory) {
        return refuse_missing("memory mode (-m)");
    }
    if (options.where_pid) {
        return run_where(options);
    }
    if (options.attach_pid) {
        return run_attach(options);
    }
    return run_launch(options);
}

}  // namespace
}  // namespace echion::cli

int main(int argc, char** argv) {
    using namespace echion::cli;
    try {
        const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
        const ParsedOptions parsed = parse_options(arguments);
        if (!parsed.options) {
            std::fputs(parsed.output.c_str(), stdout);
            std::fputs(parsed.error.c_str(), stderr);
            return std::fflush(stdout) == 0 ? parsed.exit_status : kExitFailure;
        }
        return run(*parsed.options);
    } catch (const std::exception& error) {
        say("stopped by an error in itself: {}", error.what());
        return kExitFailure;
    }
}
