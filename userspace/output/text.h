#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "model/profile_events.h"

namespace echion::output {

/// Appends a name to a collapsed line so that no reader takes a part of it for the line's own
/// syntax, or for a word of another file's: `;` and, unless it is a file's name, `:` become their
/// full-width forms, control characters their pictures, other line breaks, and marks that turn the
/// direction of writing around, U+FFFD. No path stands free: the slash of one that would begin
/// behind a space, a colon or the name's start (but a file's name, which stands behind a `;`) is a
/// full-width one, so that a profile that came to lie where lists of paths are read (such as
/// /etc/ld.so.preload, split at spaces and colons) names no file. `name` is UTF-8.
void append_name(std::string& line, std::string_view name);
void append_file_name(std::string& line, std::string_view name);

/// What a frame and a thread are called, in every format.
void append_function_name(std::string& line, const model::CodeView& code);
void append_thread_name(std::string& line, std::uint32_t native_thread_id, std::string_view name);
/// `3.12.1`
std::string format_version(model::PythonVersion version);

/// Whether a text ends in white space and a number. At the end of a line flamegraph.pl takes such a
/// number for a metric.
bool ends_in_number(std::string_view text);

}  // namespace echion::output
