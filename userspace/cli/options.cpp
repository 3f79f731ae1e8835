#include "cli/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "console/message.h"
#include "engine/host_engine.h"
#include "output/formats.h"
#include "output/open_output.h"
#include "stream/record.h"

namespace echion::cli {
namespace {

constexpr pid_t kMaxPid = 1 << 22;  // PID_MAX_LIMIT of a 64-bit kernel

constexpr std::string_view kUsage =
    "echion [options] command [argument...]\n"
    "       echion [options] -p PID\n"
    "       echion [-x TIME [-i TIME] [-c]] [--json] [--max-frames N] [-v] -w PID\n"
    "       echion --doctor";

constexpr std::string_view kFooter =
    "Times take a unit: us, ms, s, m, h or d. Options end at the first word that is none of them, "
    "or at\n"
    "--; the command's own options are left to it.\n"
    "\n"
    "The exit status is the command's, or 128 + N when signal N ended it; 126 and 127 when it "
    "could\n"
    "not be run or found; 1 when Echion failed; 2 when its command line makes no sense.\n";

constexpr std::string_view kSizeForm = "a number of bytes, or one with the unit K, M, G or T";

/// CLI11's help, wrapped for a terminal.
class HelpFormatter final : public CLI::Formatter {
  public:
    HelpFormatter() { column_width(kColumn); }

    std::string make_usage(const CLI::App* /*app*/, std::string /*name*/) const override {
        return fmt::format("Usage: {}\n", kUsage);
    }
    std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
        // A flag that says no is declared as `--no-thing{false}`.
        const std::string name = CLI::Formatter::make_option_name(option, is_positional);
        return name.substr(0, name.find('{'));
    }
    std::string make_option_desc(const CLI::Option* option) const override {
        std::string wrapped;
        std::size_t width = 0;
        std::string_view rest = option->get_description();
        while (!rest.empty()) {
            const std::string_view word = rest.substr(0, rest.find(' '));
            rest.remove_prefix(std::min(word.size() + 1, rest.size()));
            if (width + word.size() + 1 > kLine - kColumn) {
                wrapped += '\n';  // CLI11 indents what follows
                width = 0;
            } else if (width != 0) {
                wrapped += ' ';
                ++width;
            }
            wrapped += word;
            width += word.size();
        }
        return wrapped;
    }

  private:
    static constexpr std::size_t kColumn = 26;
    static constexpr std::size_t kLine = 100;
};

/// What CLI11 stores of the options that need more than its own conversions.
struct Words {
    std::optional<std::string> interval;
    std::optional<std::string> exposure;
    std::optional<std::string> output;
    std::optional<std::string> format;
    std::optional<std::string> attach_pid;
    std::optional<std::string> where_pid;
    std::optional<std::string> max_frames;
    std::optional<std::string> max_output;
    std::optional<std::string> max_memory;
    std::optional<std::string> engine;
};

void declare(CLI::App& app, Options& options, Words& words) {
    app.formatter(std::make_shared<HelpFormatter>());
    app.footer(std::string(kFooter));
    app.set_help_flag("-h,--help", "Show this help and exit");
    app.set_version_flag("-V,--version", "echion " ECHION_VERSION, "Show the version and exit");
    app.add_option("-i,--interval", words.interval,
                   fmt::format("Time between samples, in microseconds or with a unit, from 1us to "
                               "1h (default: {}; with -x -w: {}ms)",
                               kDefaultIntervalNs / 1'000, kDefaultFollowIntervalNs / 1'000'000))
        ->type_name("TIME");
    app.add_flag(
        "-c,--cpu", options.cpu,
        "CPU time instead of wall time: only threads that used CPU, and how much they used");
    app.add_option("-x,--exposure", words.exposure,
                   "Stop sampling after so many seconds, or a time with a unit (us, ms, s, m, h, "
                   "d), up to 366d; a launched command goes on")
        ->type_name("TIME");
    app.add_flag("-m,--memory", options.memory,
                 "Planned: record the memory that Python objects allocate and do not free");
    app.add_flag("-n,--native", options.native, "Planned: include the frames of native code");
    app.add_option("-o,--output", words.output,
                   fmt::format("File for the profile; %(pid) stands for the process id; {} is "
                               "standard output, which gets the profile behind all that a command "
                               "has written there (default: {})",
                               output::kStandardOutput, kDefaultOutput))
        ->type_name("FILE");
    app.add_option(
           "--format", words.format,
           fmt::format(
               "Format of the profile: {}; without it the end of FILE tells: {}, and austin "
               "for all others",
               output::list_formats(), output::list_endings()))
        ->type_name("NAME");
    app.add_option("-p,--pid", words.attach_pid, "Sample the running process PID")
        ->type_name("PID");
    app.add_flag("-s,--stealth", options.stealth,
                 "Leave the sampler's own CPU time out of the profile");
    app.add_option("-w,--where", words.where_pid,
                   "Show where the threads of process PID are, and exit; with -x follow them")
        ->type_name("PID");
    app.add_flag("--json", options.json, "With -w: one JSON document on standard output");
    app.add_option("--max-frames", words.max_frames,
                   fmt::format("Frames of one stack, counted from the leaf, from 1 to {} (default: "
                               "{})",
                               stream::kMaxFrames, kDefaultMaxFrames))
        ->type_name("N");
    app.add_option(
           "--max-output", words.max_output,
           fmt::format("End sampling when the profile has so many bytes, such as 500M or 20G, "
                       "from {} on, or none for no limit (default: {}); a launched command goes on",
                       format_size(kMinMaxOutputBytes), format_size(kDefaultMaxOutputBytes)))
        ->type_name("SIZE");
    app.add_option(
           "--max-memory", words.max_memory,
           fmt::format("Memory of this program for what the sampled processes tell of "
                       "themselves, from {} on; above it the largest of them is sampled "
                       "no more (default: {})",
                       format_size(kMinMaxMemoryBytes), format_size(kDefaultMaxMemoryBytes)))
        ->type_name("SIZE");
    app.add_option("--engine", words.engine,
                   "What makes the ticks: bpf (kernel), perf (with -c: perf events), clock (own "
                   "timer), or auto (default): the first of them that is allowed, but clock for "
                   "wall time below 500 us")
        ->type_name("NAME");
    app.add_flag("--no-follow{false}", options.follow,
                 "Read stacks from any CPU: the profiled threads run on meanwhile, and some stacks "
                 "may be wrong (for measurements)");
    app.add_flag(
        "--allow-seccomp", options.allow_seccomp,
        "With -p: attach also where it cannot be told whether the process's seccomp filter "
        "would end it for that");
    app.add_flag("--doctor", options.doctor,
                 "Show what this machine allows a profiler to do, and exit");
    app.add_flag("-v,--verbose", options.verbose, "Say more on standard error");
}

/// The arguments in front of the command, with every value tied to its option (`--long=value`), so
/// that a value like `-5` is never taken for an option.
struct Split {
    std::vector<std::string> own;
    std::vector<std::string> command;
    std::string complaint;  ///< About what could not be split; empty when all is well.
};

bool is_flag(const CLI::App& app, const std::string& name) {
    const CLI::Option* option = app.get_option_no_throw(name);
    return option != nullptr && option->get_items_expected_max() == 0;
}

bool takes_value(const CLI::App& app, const std::string& name) {
    const CLI::Option* option = app.get_option_no_throw(name);
    return option != nullptr && option->get_items_expected_max() > 0;
}

Split split_arguments(const CLI::App& app, const std::vector<std::string>& arguments) {
    Split split;
    std::size_t at = 0;
    // CLI11 takes an empty value for none, and what follows for it.
    const auto refuse_empty = [&](const std::string& option) {
        split.complaint = app.get_option(option)->get_lnames().front() == "output"
                              ? "-o: the name of the output is empty"
                              : fmt::format("{}: the value is empty", option);
    };
    const auto take_value = [&](const std::string& option) {
        if (at == arguments.size()) {
            split.own.push_back(option);  // CLI11 says that the value is missing
            return;
        }
        const std::string& value = arguments[at++];
        if (value.empty()) {
            refuse_empty(option);
        }
        split.own.push_back("--" + app.get_option(option)->get_lnames().front() + "=" + value);
    };
    while (at < arguments.size()) {
        const std::string& word = arguments[at];
        if (word == "--") {
            ++at;
            break;
        }
        if (word.size() < 2 || word[0] != '-') {
            break;
        }
        ++at;
        if (word.starts_with("--")) {
            const std::size_t equals = word.find('=');
            if (equals == word.npos && takes_value(app, word)) {
                take_value(word);
            } else if (equals != word.npos && is_flag(app, word.substr(0, equals))) {
                // CLI11 takes `--flag=false`, for which there is no use here.
                split.complaint = fmt::format("{} takes no value", word.substr(0, equals));
            } else if (equals == word.size() - 1 && takes_value(app, word.substr(0, equals))) {
                refuse_empty(word.substr(0, equals));
            } else {
                split.own.push_back(word);
            }
            continue;
        }
        for (std::size_t letter = 1; letter < word.size(); ++letter) {
            const std::string option = {'-', word[letter]};
            if (!takes_value(app, option)) {
                split.own.push_back(option);
                continue;
            }
            if (letter + 1 < word.size()) {
                split.own.push_back("--" + app.get_option(option)->get_lnames().front() + "=" +
                                    word.substr(letter + 1));
            } else {
                take_value(option);
            }
            break;
        }
    }
    split.command.assign(arguments.begin() + static_cast<std::ptrdiff_t>(at), arguments.end());
    return split;
}

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
    for (const engine::HostEngineKind& kind : engine::host_engines()) {
        if (word == kind.name) {
            options.engine = kind.name;
            return "";
        }
        expected += fmt::format(", {}", kind.name);
    }
    for (const std::string_view name : {kAutoEngine, kClockEngine}) {
        if (word == name) {
            options.engine = name;
            return "";
        }
    }
    return fmt::format("--engine {}: expected {} or {}", word, expected, kClockEngine);
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
    for (const engine::HostEngineKind& kind : engine::host_engines()) {
        if (options.engine == kind.name && kind.cpu_time_only && !options.cpu) {
            return fmt::format("--engine {} makes ticks of CPU time: it goes with -c only",
                               kind.name);
        }
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

std::optional<std::uint64_t> parse_duration_ns(std::string_view text,
                                               std::uint64_t default_unit_ns) {
    const std::size_t digits = text.find_first_not_of("0123456789.");
    const std::string number(text.substr(0, digits));
    const std::string_view unit = digits == text.npos ? "" : text.substr(digits);
    double unit_ns = 0;
    if (unit.empty()) {
        unit_ns = static_cast<double>(default_unit_ns);
    } else if (unit == "us" || unit == "µs") {
        unit_ns = 1e3;
    } else if (unit == "ms") {
        unit_ns = 1e6;
    } else if (unit == "s") {
        unit_ns = 1e9;
    } else if (unit == "m" || unit == "min") {
        unit_ns = 60e9;
    } else if (unit == "h") {
        unit_ns = 3600e9;
    } else if (unit == "d") {
        unit_ns = 24 * 3600e9;
    } else {
        return std::nullopt;
    }
    double value = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc() || end != number.data() + number.size()) {
        return std::nullopt;
    }
    const double ns = std::round(value * unit_ns);
    if (!(ns < static_cast<double>(std::numeric_limits<std::int64_t>::max()))) {
        return std::nullopt;
    }
    return static_cast<std::uint64_t>(ns);
}

std::optional<std::uint64_t> parse_size_bytes(std::string_view text) {
    const std::size_t digits = text.find_first_not_of("0123456789.");
    const std::string number(text.substr(0, digits));
    std::string lower(digits == text.npos ? "" : text.substr(digits));
    for (char& c : lower) {
        c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    std::string_view unit = lower;
    int shift = 0;
    if (!unit.empty() && unit != "b") {
        const std::size_t power = std::string_view("kmgt").find(unit[0]);
        if (power == std::string_view::npos) {
            return std::nullopt;
        }
        shift = 10 * (static_cast<int>(power) + 1);
        unit.remove_prefix(1);
    }
    double value = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc() || end != number.data() + number.size() ||
        !(unit.empty() || unit == "b" || (shift != 0 && unit == "ib"))) {
        return std::nullopt;
    }
    const double bytes = std::round(std::ldexp(value, shift));
    if (!(bytes < static_cast<double>(std::numeric_limits<std::int64_t>::max()))) {
        return std::nullopt;
    }
    return static_cast<std::uint64_t>(bytes);
}

std::string format_size(std::uint64_t bytes) {
    constexpr std::string_view kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) {
        value /= 1024;
    }
    return fmt::format("{:.4g} {}", value, kUnits[unit]);
}

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
    CLI::App app("Samples the stacks of a Python program from within it, without holding its GIL.",
                 "echion");
    declare(app, options, words);
    if (arguments.empty()) {
        return {std::nullopt, kExitUsage, {}, app.help()};
    }
    Split split = split_arguments(app, arguments);
    if (!split.complaint.empty()) {
        return refuse(split.complaint);
    }
    options.command = std::move(split.command);
    try {
        std::vector<std::string> reversed(split.own.rbegin(), split.own.rend());
        app.parse(reversed);  // CLI11 takes a vector from its end
    } catch (const CLI::CallForHelp&) {
        return {std::nullopt, 0, app.help(), {}};
    } catch (const CLI::CallForVersion&) {
        return {std::nullopt, 0, "echion " ECHION_VERSION "\n", {}};
    } catch (const CLI::ParseError& error) {
        return refuse(error.what());
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
