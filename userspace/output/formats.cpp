#include "output/formats.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "output/austin_writer.h"
#include "output/mojo_writer.h"
#include "output/pprof_writer.h"

namespace echion::output {
namespace {

struct FormatInfo {
    Format format;
    std::string_view name;
    std::array<std::string_view, 2> endings;  // of files' names; empty ones do not count
    bool is_binary;
    std::unique_ptr<ProfileWriter> (*make)(OutputFile& file, const ProfileDescription& description,
                                           const WriterLimits& limits);
};

constexpr FormatInfo kFormats[] = {
    {Format::kAustin,
     "austin",
     {},
     false,
     [](OutputFile& file, const ProfileDescription& /*description*/,
        const WriterLimits& limits) -> std::unique_ptr<ProfileWriter> {
         return std::make_unique<AustinWriter>(file, limits);
     }},
    {Format::kMojo,
     "mojo",
     {".mojo"},
     true,
     [](OutputFile& file, const ProfileDescription& /*description*/, const WriterLimits& limits)
         -> std::unique_ptr<ProfileWriter> { return std::make_unique<MojoWriter>(file, limits); }},
    {Format::kPprof,
     "pprof",
     {".pb.gz", ".pprof"},
     true,
     [](OutputFile& file, const ProfileDescription& description,
        const WriterLimits& limits) -> std::unique_ptr<ProfileWriter> {
         return std::make_unique<PprofWriter>(file, description, limits);
     }},
};

const FormatInfo& find_info(Format format) {
    return *std::ranges::find(kFormats, format, &FormatInfo::format);
}

}  // namespace

std::optional<Format> find_format(std::string_view name) {
    const auto* info = std::ranges::find(kFormats, name, &FormatInfo::name);
    return info == std::end(kFormats) ? std::nullopt : std::optional(info->format);
}

Format find_format_of_file(std::string_view path) {
    for (const FormatInfo& info : kFormats) {
        for (const std::string_view ending : info.endings) {
            if (!ending.empty() && path.ends_with(ending)) {
                return info.format;
            }
        }
    }
    return Format::kAustin;
}

std::string list_formats() {
    std::string list;
    for (const FormatInfo& info : kFormats) {
        const bool is_last = &info == std::end(kFormats) - 1;
        list += list.empty() ? "" : is_last ? " or " : ", ";
        list += info.name;
    }
    return list;
}

bool is_binary(Format format) { return find_info(format).is_binary; }

std::unique_ptr<ProfileWriter> make_writer(Format format, OutputFile& file,
                                           const ProfileDescription& description,
                                           const WriterLimits& limits) {
    return find_info(format).make(file, description, limits);
}

}  // namespace echion::output
