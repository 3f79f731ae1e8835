#pragma once

#include <string>
#include <string_view>

namespace echion::output {

/// Appends a name to a collapsed line so that no reader takes a part of it for the line's own
/// syntax: `;` and, unless it is a file's name, `:` become their full-width forms, control
/// characters their pictures, other line breaks U+FFFD. `name` is UTF-8.
void append_name(std::string& line, std::string_view name);
void append_file_name(std::string& line, std::string_view name);

/// Whether a text ends in white space and a number. At the end of a line flamegraph.pl takes such a
/// number for a metric.
bool ends_in_number(std::string_view text);

}  // namespace echion::output
