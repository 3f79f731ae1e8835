#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

/// What the user reads on standard error: whole lines, each beginning with `echion: `.
namespace echion {

/// Prints one line in one write, so that it does not mix with what the command prints. What is not
/// printable in `text` is escaped: it may hold arguments, file names, and texts of other processes.
void print_message(std::string_view text);

template <typename... Arguments>
void say(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    print_message(fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// Writes all of the text; false, with errno, when the other end takes no more.
bool write_text(int fd, std::string_view text);

/// Writes to standard output what the user has asked for; false, and says so, when that fails.
bool print_result(std::string_view text);

/// `what: the system's words for it`, or these alone where `what` is empty.
std::string describe(const Error& error);

/// Why this program could not go on, with the limits that most often stand behind it.
std::string describe(const std::exception& error);

/// Text in valid UTF-8 that does not play with the terminal: any other byte, and what
/// is_unprintable(), become escapes such as `\x1b`. Backslashes stay, so that the result may be
/// treated again.
std::string make_printable(std::string_view text);

/// The same in single quotes, for names.
std::string quote(std::string_view text);

/// `SIGINT`, or `signal 40` for one without a name.
std::string name_signal(int number);

}  // namespace echion
