#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "output/output_file.h"
#include "output/profile_writer.h"

namespace echion::output {

/// What a profile can be written as. A new format is a value here and a row of the table in
/// formats.cpp.
enum class Format : std::uint8_t {
    kAustin,  ///< Austin's collapsed text.
    kMojo,    ///< Austin's binary format.
    kPprof,   ///< pprof's protobuf message, gzip-compressed.
};

std::optional<Format> find_format(std::string_view name);
/// The format that a file's name ends like; kAustin for all other names.
Format find_format_of_file(std::string_view path);
/// `austin, mojo or pprof`
std::string list_formats();
/// `.mojo, .pb.gz or .pprof`: those of files' names that mean another format than kAustin.
std::string list_endings();
/// Whether a file is a profile of any format, by its first KiB.
bool begins_like_profile(std::string_view head);
/// Whether it is no text: a terminal cannot show it.
bool is_binary(Format format);

/// `file` must live longer, with nothing written to it yet.
std::unique_ptr<ProfileWriter> make_writer(Format format, OutputFile& file,
                                           const ProfileDescription& description,
                                           const WriterLimits& limits);

}  // namespace echion::output
