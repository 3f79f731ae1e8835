#include "cli/command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string_view>

#include "cli/quantities.h"
#include "output/formats.h"
#include "output/open_output.h"
#include "stream/record.h"

namespace echion::cli {
namespace {

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
           "--tasks", words.tasks,
           "Tasks of asyncio in the profile: all (default; for wall time suspended ones have "
           "stacks of their own), running (in the stacks of their threads, with those that "
           "wait for them) or none")
        ->type_name("WHICH");
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

}  // namespace

CommandLine read_command_line(const std::vector<std::string>& arguments, Options& options,
                              Words& words) {
    CLI::App app("Samples the stacks of a Python program from within it, without holding its GIL.",
                 "echion");
    declare(app, options, words);
    if (arguments.empty()) {
        return {CommandLine::Kind::kNothing, app.help()};
    }
    Split split = split_arguments(app, arguments);
    if (!split.complaint.empty()) {
        return {CommandLine::Kind::kMistake, split.complaint};
    }
    options.command = std::move(split.command);
    try {
        std::vector<std::string> reversed(split.own.rbegin(), split.own.rend());
        app.parse(reversed);  // CLI11 takes a vector from its end
    } catch (const CLI::CallForHelp&) {
        return {CommandLine::Kind::kQuestion, app.help()};
    } catch (const CLI::CallForVersion&) {
        return {CommandLine::Kind::kQuestion, "echion " ECHION_VERSION "\n"};
    } catch (const CLI::ParseError& error) {
        return {CommandLine::Kind::kMistake, error.what()};
    }
    return {CommandLine::Kind::kWords, {}};
}

}  // namespace echion::cli
