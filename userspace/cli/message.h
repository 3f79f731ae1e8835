#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

/// What the user reads on standard error: whole lines, each beginning with `echion: `.
namespace echion::cli {

/// Prints one line in one write, so that it does not mix with what the command prints.
void print_message(std::string_view text);

template <typename... Arguments>
void say(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
    print_message(fmt::format(format, std::forward<Arguments>(arguments)...));
}

/// `what: the system's words for it`.
std::string describe(const Error& error);

/// Text of a foreign process with control characters replaced, so that it cannot play with the
/// terminal.
std::string make_printable(std::string_view text);

}  // namespace echion::cli
