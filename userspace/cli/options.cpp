#include "cli/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <tuple>

#include "cli/command_line.h"
#include "cli/quantities.h"
#include "console/message.h"
#include "output/formats.h"
#include "stream/record.h"

namespace echion::cli {
namespace {

constexpr pid_t kMaxPid = 1 << 22;  // PID_MAX_LIMIT of a 64-bit kernel

constexpr std::string_view kAutoEngine = "auto";  // --engine: the best that can be had

// Of --tasks, in the order of control::TaskMode.
constexpr std::array<std::string_view, 3> kTaskModes = {"all", "running", "none"};

constexpr std::string_view kSizeForm = "a number of bytes, or one with the unit K, M, G or T";

std::optional<std::uint64_t> parse_whole(std::string_view text, std::uint64_t low,
                                         std::uint64_t high) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
        return std::nullopt;
    }
    return value;
}

/// Empty, or why not.
std::string choose_engine(std::string_view word, Options& options) {
    std::string expected(kAutoEngine);
    for (const engine::EngineKind& kind : engine::engines()) {
        if (word == kind.name) {
            options.engine = &kind;
            return "";
        }
        const bool is_last = &kind == &engine::engines().back();
        expected += fmt::format("{}{}", is_last ? " or " : ", ", kind.name);
    }
    if (word == kAutoEngine) {
        return "";
    }
    return fmt::format("--engine {}: expected {}", word, expected);
}

/// Turns the words into values; the complaint about the first that makes no sense, or nothing.
std::string convert(const Words& words, Options& options) {
    if (words.interval) {
        const auto ns = parse_duration_ns(*words.interval, 1'000);
        if (!ns || *ns < kMinIntervalNs || *ns > kMaxIntervalNs) {
            return fmt::format(
                "-i {}: expected a time between 1us and 1h, such as 500, 500us, 1.5ms or 1s",
                *words.interval);
        }
        options.interval_ns = *ns;
    } else if (words.where_pid) {
        options.interval_ns = kDefaultFollowIntervalNs;
    }
    if (words.exposure) {
        options.exposure_ns = parse_duration_ns(*words.exposure, 1'000'000'000);
        if (!options.exposure_ns || *options.exposure_ns == 0 ||
            *options.exposure_ns > kMaxExposureNs) {
            return fmt::format(
                "-x {}: expected a time in seconds or with a unit, above 0 and up to {}d, such "
                "as 30, 0.5, 500ms, 5m or 2h",
                *words.exposure, kMaxExposureNs / 86'400'000'000'000);
        }
    }
    if (words.output) {
        options.output = *words.output;
        options.output_is_default = false;
    }
    options.format = output::find_format_of_file(options.output);
    if (words.format) {
        const auto format = output::find_format(*words.format);
        if (!format) {
            return fmt::format("--format {}: expected {}", *words.format, output::list_formats());
        }
        options.format = *format;
    }
    if (words.tasks) {
        const auto* mode = std::find(kTaskModes.begin(), kTaskModes.end(), *words.tasks);
        if (mode == kTaskModes.end()) {
            return fmt::format("--tasks {}: expected all, running or none", *words.tasks);
        }
        options.tasks = static_cast<control::TaskMode>(mode - kTaskModes.begin());
    }
    if (words.engine) {
        const std::string why = choose_engine(*words.engine, options);
        if (!why.empty()) {
            return why;
        }
    }
    if (words.max_frames) {
        const auto frames = parse_whole(*words.max_frames, 1, stream::kMaxFrames);
        if (!frames) {
            return fmt::format("--max-frames {}: expected a number from 1 to {}", *words.max_frames,
                               stream::kMaxFrames);
        }
        options.max_frames = static_cast<std::uint32_t>(*frames);
    }
    if (words.max_output && *words.max_output == "none") {
        options.max_output_bytes = std::numeric_limits<std::int64_t>::max();
    } else if (words.max_output) {
        const auto bytes = parse_size_bytes(*words.max_output);
        if (!bytes) {
            return fmt::format("--max-output {}: expected {}, such as 500M or 20G, or none",
                               *words.max_output, kSizeForm);
        }
        if (*bytes < kMinMaxOutputBytes) {
            return fmt::format("--max-output {}: expected {} at the least, or none",
                               *words.max_output, format_size(kMinMaxOutputBytes));
        }
        options.max_output_bytes = *bytes;
    }
    if (words.max_memory) {
        const auto bytes = parse_size_bytes(*words.max_memory);
        if (!bytes) {
            return fmt::format("--max-memory {}: expected {}, such as 500M or 4G",
                               *words.max_memory, kSizeForm);
        }
        if (*bytes < kMinMaxMemoryBytes) {
            return fmt::format("--max-memory {}: expected {} at the least", *words.max_memory,
                               format_size(kMinMaxMemoryBytes));
        }
        options.max_memory_bytes = *bytes;
    }
    for (const auto& [flag, word, pid] : {std::tuple{"-p", &words.attach_pid, &options.attach_pid},
                                          std::tuple{"-w", &words.where_pid, &options.where_pid}}) {
        if (*word) {
            const auto value = parse_whole(**word, 1, kMaxPid);
            if (!value) {
                return fmt::format("{} {}: expected the id of a process", flag, **word);
            }
            *pid = static_cast<pid_t>(*value);
        }
    }
    return {};
}

std::string tell_clash(std::string_view one, std::string_view other) {
    return fmt::format("{} and {} cannot go together", one, other);
}

/// The first option given that has no effect in a mode that takes few; nothing when there is none.
std::string_view find_idle_option(const Options& options, const Words& words) {
    const bool follows = options.where_pid && options.exposure_ns;
    const std::pair<bool, std::string_view> given[] = {
        {options.memory, "-m"},
        {options.native, "-n"},
        {options.allow_seccomp, "--allow-seccomp"},
        {options.stealth, "-s"},
        {words.output.has_value(), "-o"},
        {words.format.has_value(), "--format"},
        {words.engine.has_value(), "--engine"},
        {words.max_output.has_value(), "--max-output"},
        {words.max_memory.has_value(), "--max-memory"},
        {words.tasks.has_value(), "--tasks"},
        {!options.follow, "--no-follow"},
        {options.cpu && !follows, options.where_pid ? "-c without -x" : "-c"},
        {words.interval && !follows, options.where_pid ? "-i without -x" : "-i"},
        {options.doctor && options.exposure_ns, "-x"},
        {options.doctor && words.max_frames, "--max-frames"},
        {options.doctor && options.json, "--json"}};
    for (const auto& [is_given, name] : given) {
        if (is_given) {
            return name;
        }
    }
    return {};
}

/// What cannot go together; nothing when all is well.
std::string find_contradiction(const Options& options, const Words& words) {
    const bool has_command = !options.command.empty();
    const auto clash = tell_clash;
    if (options.doctor) {
        if (has_command || options.attach_pid || options.where_pid) {
            return "--doctor looks at the machine only: it takes no command and no process";
        }
        const std::string_view idle = find_idle_option(options, words);
        return idle.empty() ? "" : clash("--doctor", idle);
    }
    if (options.attach_pid && options.where_pid) {
        return clash("-p", "-w");
    }
    if (has_command && options.attach_pid) {
        return clash("-p", "a command");
    }
    if (has_command && options.where_pid) {
        return clash("-w", "a command");
    }
    if (!has_command && !options.attach_pid && !options.where_pid) {
        return "nothing to sample: give a command, -p PID or -w PID";
    }
    if (options.memory && options.cpu) {
        return clash("-m", "-c");
    }
    if (options.engine != nullptr && options.engine->cpu_time_only && !options.cpu) {
        return fmt::format("--engine {} makes ticks of CPU time: it goes with -c only",
                           options.engine->name);
    }
    if (options.json && !options.where_pid) {
        return "--json goes with -w only";
    }
    if (options.allow_seccomp && has_command) {
        return "--allow-seccomp goes with -p only";
    }
    if (options.where_pid) {
        const std::string_view idle = find_idle_option(options, words);
        return idle.empty() ? "" : clash("-w", idle);
    }
    return {};
}

ParsedOptions refuse(const std::string& complaint) {
    return {std::nullopt,
            kExitUsage,
            {},
            fmt::format("echion: {} (echion --help shows how)\n", make_printable(complaint))};
}

}  // namespace

std::string expand_output(std::string_view pattern, pid_t pid) {
    constexpr std::string_view kPid = "%(pid)";
    std::string result;
    while (!pattern.empty()) {
        if (pattern.starts_with("%%(pid)")) {
            pattern.remove_prefix(1);
        }
        if (pattern.starts_with(kPid)) {
            result += std::to_string(pid);
            pattern.remove_prefix(kPid.size());
        } else {
            result += pattern.front();
            pattern.remove_prefix(1);
        }
    }
    return result;
}

ParsedOptions parse_options(const std::vector<std::string>& arguments) {
    Options options;
    Words words;
    const CommandLine line = read_command_line(arguments, options, words);
    switch (line.kind) {
        case CommandLine::Kind::kNothing:
            return {std::nullopt, kExitUsage, {}, line.text};
        case CommandLine::Kind::kQuestion:
            return {std::nullopt, 0, line.text, {}};
        case CommandLine::Kind::kMistake:
            return refuse(line.text);
        case CommandLine::Kind::kWords:
            break;
    }
    if (const std::string complaint = convert(words, options); !complaint.empty()) {
        return refuse(complaint);
    }
    if (const std::string complaint = find_contradiction(options, words); !complaint.empty()) {
        return refuse(complaint);
    }
    return {std::move(options), 0, {}, {}};
}

}  // namespace echion::cli
