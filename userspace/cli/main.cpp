#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "cli/doctor.h"
#include "cli/modes.h"
#include "cli/options.h"
#include "cli/proc_check.h"
#include "console/message.h"
#include "where/where.h"

namespace echion::cli {
namespace {

/// Takes the numbers of the standard streams that this program was started without, so that nothing
/// that it opens gets one of them: messages would be written into it, and the command would find it
/// open. What takes them can be neither read nor written, like a closed stream, and is closed
/// for the command.
void keep_standard_streams_free() {
    for (;;) {
        const int fd = open("/", O_PATH | O_CLOEXEC);
        if (fd < 0 || fd > STDERR_FILENO) {
            close(fd);
            return;
        }
    }
}

int refuse_missing(const char* what) {
    say("{} is not in this version yet", what);
    return kExitFailure;
}

where::Request describe_look(const Options& options) {
    where::Request request;
    request.pid = *options.where_pid;
    request.exposure_ns = options.exposure_ns;
    request.interval_ns = options.interval_ns;
    request.max_frames = options.max_frames;
    request.cpu = options.cpu;
    request.json = options.json;
    request.verbose = options.verbose;
    return request;
}

int run(const Options& options) {
    const Looks looks =
        options.attach_pid || options.where_pid ? Looks::kAtAnyProcess : Looks::kAtOwnChild;
    if (const std::string why = explain_unusable_proc(looks); !why.empty()) {
        say("{}", why);
        return kExitFailure;
    }
    if (options.doctor) {
        return print_result(run_doctor()) ? 0 : kExitFailure;
    }
    if (options.native) {
        return refuse_missing("native mode (-n)");
    }
    if (options.memory) {
        return refuse_missing("memory mode (-m)");
    }
    if (options.where_pid) {
        return where::run(describe_look(options));
    }
    if (options.attach_pid) {
        return run_attach(options);
    }
    return run_launch(options);
}

}  // namespace
}  // namespace echion::cli

int main(int argc, char** argv) {
    using namespace echion;
    using namespace echion::cli;
    keep_standard_streams_free();
    try {
        const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
        const ParsedOptions parsed = parse_options(arguments);
        if (!parsed.options) {
            std::fputs(parsed.error.c_str(), stderr);
            return print_result(parsed.output) ? parsed.exit_status : kExitFailure;
        }
        return run(*parsed.options);
    } catch (const std::exception& error) {
        say("cannot go on: {}", describe(error));
        return kExitFailure;
    }
}
