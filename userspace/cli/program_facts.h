#pragma once

#include <cstdint>
#include <string>

namespace echion::cli {

/// What can be known of a program without running it: why the dynamic loader may have left the
/// agent out.
struct ProgramFacts {
    std::string path;  ///< As found in PATH; empty if it was not.
    bool is_static = false;
    bool is_privileged = false;  ///< Set-uid, set-gid or with capabilities that the user has not.
    bool is_other_word_size = false;
};

/// Looks a command up as execvp does, and into its file; for a script, into its interpreter's. What
/// cannot be read stays false.
ProgramFacts inspect_program(const std::string& name);

/// How a command went in which no Python was seen.
struct NoPython {
    std::int64_t lived_ns = 0;
    int signal = 0;  ///< That ended it, or came to it; 0: none.
};

/// One line for the user of such a command.
std::string explain_no_python(const std::string& name, const NoPython& run);

}  // namespace echion::cli
