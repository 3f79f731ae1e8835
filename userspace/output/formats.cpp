#include "output/formats.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <span>
#include <vector>

#include "output/austin_writer.h"
#include "output/gzip_stream.h"
#include "output/mojo_writer.h"
#include "output/pprof_writer.h"

namespace echion::output {
namespace {

/// What a file of a format begins with, and has soon after that: so an earlier profile is known.
struct Signs {
    std::string_view begins;
    std::string_view has;
};

struct FormatInfo {
    Format format;
    std::string_view name;
    std::array<std::string_view, 2> endings;  // of files' names; empty ones do not count
    Signs signs;
    bool is_binary;
    std::unique_ptr<ProfileWriter> (*make)(OutputFile& file, const ProfileDescription& description,
                                           const WriterLimits& limits);
};

template <typename Writer>
std::unique_ptr<ProfileWriter> make_plain(OutputFile& file,
                                          const ProfileDescription& /*description*/,
                                          const WriterLimits& limits) {
    return std::make_unique<Writer>(file, limits);
}

std::unique_ptr<ProfileWriter> make_pprof(OutputFile& file, const ProfileDescription& description,
                                          const WriterLimits& limits) {
    return std::make_unique<PprofWriter>(file, description, limits);
}

constexpr FormatInfo kFormats[] = {
    {.format = Format::kAustin,
     .name = "austin",
     .endings = {},
     .signs = {"# mode: ", "\n# sampler: echion "},
     .is_binary = false,
     .make = make_plain<AustinWriter>},
    {.format = Format::kMojo,
     .name = "mojo",
     .endings = {".mojo"},
     .signs = {{"MOJ\x03\x01mode\0", 10}, {"\0\x01sampler\0echion ", 17}},
     .is_binary = true,
     .make = make_plain<MojoWriter>},
    {.format = Format::kPprof,
     .name = "pprof",
     .endings = {".pb.gz", ".pprof"},
     .signs = {"\x1f\x8b\x08\x10", kGzipComment},
     .is_binary = true,
     .make = make_pprof},
};

/// `a, b or c`
std::string join(std::span<const std::string_view> words) {
    std::string list;
    for (const std::string_view& word : words) {
        list += list.empty() ? "" : &word == &words.back() ? " or " : ", ";
        list += word;
    }
    return list;
}

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
    std::vector<std::string_view> names;
    for (const FormatInfo& info : kFormats) {
        names.push_back(info.name);
    }
    return join(names);
}

std::string list_endings() {
    std::vector<std::string_view> endings;
    for (const FormatInfo& info : kFormats) {
        std::ranges::copy_if(info.endings, std::back_inserter(endings),
                             [](std::string_view ending) { return !ending.empty(); });
    }
    return join(endings);
}

bool begins_like_profile(std::string_view head) {
    return std::ranges::any_of(kFormats, [head](const FormatInfo& info) {
        return head.starts_with(info.signs.begins) && head.find(info.signs.has) != head.npos;
    });
}

bool is_binary(Format format) { return find_info(format).is_binary; }

std::unique_ptr<ProfileWriter> make_writer(Format format, OutputFile& file,
                                           const ProfileDescription& description,
                                           const WriterLimits& limits) {
    return find_info(format).make(file, description, limits);
}

}  // namespace echion::output
