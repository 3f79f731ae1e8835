#include "cli/open_profile.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "console/message.h"
#include "output/formats.h"
#include "output/open_output.h"
#include "output/output_file.h"

namespace echion::cli {
namespace {

/// Of a line of text for each frame that a stack may have: some ten times what is usual.
constexpr std::size_t kLineBytesOfFrame = 1024;
constexpr std::size_t kMinLineBytes = std::size_t{64} << 10;

Result<std::unique_ptr<Profile>> open(const Options& options, pid_t pid_for_name) {
    if (const auto number = output::find_own_descriptor(options.output);
        output::is_binary(options.format) && number && isatty(*number) != 0) {
        return fail(ErrorKind::kInvalid,
                    "it is a terminal, which cannot show this format; use a file or a pipe, or "
                    "--format austin");
    }
    auto file = output::OutputFile::open(
        expand_output(options.output, pid_for_name),
        options.output_is_default ? output::NameOrigin::kDefault : output::NameOrigin::kUser,
        options.attach_pid ? output::Sharing::kAlone : output::Sharing::kWithCommand);
    if (!file) {
        return tl::unexpected(file.error());
    }
    ProfileSettings settings;
    settings.metric = options.cpu ? model::Metric::kCpuTime : model::Metric::kWallTime;
    settings.interval_ns = options.interval_ns;
    settings.stealth = options.stealth;
    settings.format = options.format;
    settings.limits.output_bytes = options.max_output_bytes;
    settings.limits.line_bytes = std::clamp(options.max_frames * kLineBytesOfFrame, kMinLineBytes,
                                            settings.limits.line_bytes);
    return std::make_unique<Profile>(std::move(*file), settings);
}

}  // namespace

Result<std::unique_ptr<Profile>> open_profile(const Options& options, pid_t pid_for_name) {
    auto profile = open(options, pid_for_name);
    if (!profile) {
        const Error& error = profile.error();
        const std::string name = output::name_output(expand_output(options.output, pid_for_name));
        if (error.what == output::kNoSpool) {
            say("cannot write {}: the profile is kept in a file in {} until the command ends, and "
                "none can be made there ({}); TMPDIR names another folder",
                name, output::find_spool_folder(),
                describe({ErrorKind::kSystem, error.system_errno, ""}));
        } else {
            say("cannot write {}: {}", name, describe(error));
        }
        return fail(ErrorKind::kRefused, "the output cannot be written");
    }
    return profile;
}

}  // namespace echion::cli
