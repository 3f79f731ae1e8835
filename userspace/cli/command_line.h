#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cli/options.h"

/// The options that there are, their help, and how a command line is taken apart.
namespace echion::cli {

/// The values of options as they were typed, where more than a flag is to be made of them.
struct Words {
    std::optional<std::string> interval;
    std::optional<std::string> exposure;
    std::optional<std::string> output;
    std::optional<std::string> format;
    std::optional<std::string> attach_pid;
    std::optional<std::string> where_pid;
    std::optional<std::string> max_frames;
    std::optional<std::string> tasks;
    std::optional<std::string> max_output;
    std::optional<std::string> max_memory;
    std::optional<std::string> engine;
};

/// What a command line is.
struct CommandLine {
    enum class Kind {
        kWords,     ///< Something to do.
        kNothing,   ///< No arguments; `text` is the help.
        kQuestion,  ///< --help or --version; `text` answers it.
        kMistake,   ///< `text` says which.
    };
    Kind kind;
    std::string text;
};

/// Reads the arguments behind the program's name: flags and the command into `options`, values of
/// other options into `words`. Options end at the first word that is none, or at `--`: the rest is
/// the command with its own options.
CommandLine read_command_line(const std::vector<std::string>& arguments, Options& options,
                              Words& words);

}  // namespace echion::cli
