#include "cpython/locate.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "cpython/debug_offsets.h"
#include "platform/elf_image.h"
#include "platform/process_modules.h"

namespace echion::cpython {
namespace {

// libpython's .data and .bss take 1 to 2 MiB; an executable with much of its own may have more.
constexpr std::size_t kMaxDataBytes = std::size_t{32} << 20;
constexpr std::size_t kScanBytes = 4096;
// Longest head of the version text that is looked at: "3.13.10rc1+" and what follows of kBuilds.
constexpr std::size_t kVersionHeadBytes = 64;
// What follows a version (CPython Python/getversion.c): of 3.14 and later, of 3.13, of a build with
// a GIL.
constexpr std::string_view kBuilds[] = {" free-threading build (",
                                        " experimental free-threading build (", " ("};

/// Takes the digits at `at`; at most three, so that the value fits.
bool take_number(std::string_view text, std::size_t& at, unsigned& value) {
    const std::size_t begin = at;
    value = 0;
    while (at < text.size() && at - begin < 3 && text[at] >= '0' && text[at] <= '9') {
        value = value * 10 + static_cast<unsigned>(text[at++] - '0');
    }
    return at > begin && value <= 255;
}

/// Whether the version text starts here: "3.N.M" or "2.7.M", perhaps a suffix such as "rc1+", then
/// one of kBuilds.
bool starts_version(std::string_view text, Version& version) {
    std::size_t at = 2;
    unsigned minor = 0;
    unsigned micro = 0;
    const bool is_known = text.starts_with("3.") || text.starts_with("2.7.");
    if (!is_known || !take_number(text, at, minor) || at >= text.size() || text[at++] != '.' ||
        !take_number(text, at, micro)) {
        return false;
    }
    while (at < text.size() &&
           (text[at] == 'a' || text[at] == 'b' || text[at] == 'r' || text[at] == 'c' ||
            text[at] == '+' || (text[at] >= '0' && text[at] <= '9'))) {
        ++at;
    }
    const std::string_view rest = text.substr(std::min(at, text.size()));
    if (std::none_of(std::begin(kBuilds), std::end(kBuilds),
                     [&](std::string_view build) { return rest.starts_with(build); })) {
        return false;
    }
    version = {static_cast<std::uint8_t>(text[0] - '0'), static_cast<std::uint8_t>(minor),
               static_cast<std::uint8_t>(micro)};
    return true;
}

Result<Version> read_version_symbol(MemoryReader& reader, Address symbol) {
    // PY_VERSION_HEX: major, minor, micro, then release level and serial, a byte each.
    const auto hex = reader.read_value<unsigned long>(symbol);
    if (!hex) {
        return tl::unexpected(hex.error());
    }
    const Version version{static_cast<std::uint8_t>(*hex >> 24),
                          static_cast<std::uint8_t>(*hex >> 16),
                          static_cast<std::uint8_t>(*hex >> 8)};
    if (version.major != 3 || (static_cast<unsigned long long>(*hex) >> 32) != 0) {
        return fail(ErrorKind::kInvalid, "Py_Version holds no version");
    }
    return version;
}

Result<Version> scan_version_text(MemoryReader& reader, const ElfRange& data) {
    // Blocks overlap by the head of a text, so that none is cut in two.
    std::array<char, kScanBytes> block;
    const std::size_t size = std::min(data.size_bytes, kMaxDataBytes);
    for (std::size_t at = 0; at < size; at += kScanBytes - kVersionHeadBytes) {
        const std::size_t length = std::min(kScanBytes, size - at);
        // The middle of .data may be unreadable (a guard between segments): go on behind it.
        if (!reader.read_bytes(data.start + at, block.data(), length)) {
            continue;
        }
        if (const auto version = parse_version_text(block.data(), length)) {
            return version;
        }
    }
    return fail(ErrorKind::kNotReady, "the Python runtime has not named its version yet");
}

struct Found {
    Address runtime;
    Address code_type;
    Address version;
    const char* method = "";
};

Result<Found> find_dynamic(MemoryReader& reader, const ElfImage& image) {
    const auto runtime = image.find_symbol(reader, "_PyRuntime");
    if (!runtime) {
        return tl::unexpected(runtime.error());
    }
    Found found{runtime->address, {}, {}, "dynamic symbol"};
    if (const auto symbol = image.find_symbol(reader, "PyCode_Type")) {
        found.code_type = symbol->address;
    }
    if (const auto symbol = image.find_symbol(reader, "Py_Version")) {
        found.version = symbol->address;
    }
    return found;
}

/// For objects that export nothing: what their file still tells.
Result<Found> find_in_file(pid_t pid, const MappedRange& range, const ElfImage& image,
                           ReadBudget& budget) {
    const auto file = open_mapped_file(pid, range);
    if (!file) {
        return tl::unexpected(file.error());
    }
    std::array<WantedSymbol, 3> wanted{
        {{"_PyRuntime", {}}, {"PyCode_Type", {}}, {"Py_Version", {}}}};
    if (find_symbols_in_file(file->get(), image.bias(), wanted, budget) && wanted[0].found) {
        const auto address = [](const WantedSymbol& symbol) {
            return symbol.found ? symbol.found->address : Address();
        };
        return Found{address(wanted[0]), address(wanted[1]), address(wanted[2]), "symbol table"};
    }
    const auto section = find_section_in_file(file->get(), image.bias(), ".PyRuntime", budget);
    if (!section) {
        return tl::unexpected(section.error());
    }
    return Found{section->start, {}, {}, "section"};
}

/// CPython 3.6 and older has no _PyRuntime; it is named as what it is rather than as no Python.
Result<Found> find_older_python(MemoryReader& reader, const ElfImage& image) {
    const auto symbol = image.find_symbol(reader, "Py_GetVersion");
    if (!symbol || !symbol->is_function) {
        return fail(ErrorKind::kInvalid, "no CPython here");
    }
    return Found{{}, {}, {}, "Py_GetVersion"};
}

/// Completes `out` from what was found in one object; the error says what is wrong with it.
Status complete(MemoryReader& reader, const ElfImage& image, const Found& found,
                LocatedRuntime& out) {
    out.view.runtime = found.runtime;
    out.view.code_type = found.code_type;
    out.module_base = image.base();
    out.method = found.method;
    const auto version = found.version ? read_version_symbol(reader, found.version)
                                       : scan_version_text(reader, image.data());
    if (!version) {
        return tl::unexpected(version.error());
    }
    out.view.version = *version;
    if (!found.runtime && find_layout(*version) != nullptr) {
        // This version has one: its object was not mapped in full when that was looked for.
        return fail(ErrorKind::kNotReady, "the Python runtime is still being loaded");
    }
    out.view.layout = found.runtime ? find_layout(*version) : nullptr;
    if (out.view.layout == nullptr) {
        return fail(ErrorKind::kUnsupportedVersion, "no layout for this CPython version");
    }
    const auto free_threaded = is_free_threaded(reader, found.runtime, *out.view.layout);
    if (!free_threaded) {
        return tl::unexpected(free_threaded.error());
    }
    if (*free_threaded) {
        out.view.layout = find_free_threaded_layout(*version);
    }
    if (out.view.layout == nullptr) {
        return fail(ErrorKind::kUnsupportedVersion, "no layout for a free-threaded build of it");
    }
    const auto stated = read_debug_offsets(reader, found.runtime, *out.view.layout);
    if (!stated) {
        return tl::unexpected(stated.error());
    }
    if (std::memcmp(&*stated, out.view.layout, sizeof(Layout)) != 0) {
        out.own_layout = *stated;
        out.has_own_layout = true;
        out.view.layout = &out.own_layout;
    }
    out.is_ready = static_cast<bool>(check_ready(reader, out.view));
    return {};
}

void keep_path(std::string_view path, LocatedRuntime& out) {
    const std::size_t length = std::min(path.size(), sizeof(out.module_path) - 1);
    std::memcpy(out.module_path, path.data(), length);
    out.module_path[length] = '\0';
}

/// One pass over the objects of the process. Keeps the first runtime, and replaces it by one that
/// is ready.
template <typename Find>
Status search(MemoryReader& reader, pid_t pid, LocatedRuntime& out, bool& has_found,
              Status& outcome, const Find& find) {
    return for_each_module(pid, [&](const MappedRange& range) {
        const auto image = ElfImage::read(reader, range.start);
        if (!image) {
            return true;
        }
        const Result<Found> found = find(range, *image);
        if (!found) {
            return true;
        }
        LocatedRuntime candidate;
        const Status status = complete(reader, *image, *found, candidate);
        if (!has_found || candidate.is_ready) {
            out = candidate;
            keep_path(range.path, out);
            outcome = status;
            has_found = true;
        }
        return !candidate.is_ready;
    });
}

}  // namespace

LocatedRuntime& LocatedRuntime::operator=(const LocatedRuntime& other) {
    if (this == &other) {
        return *this;
    }
    view = other.view;
    own_layout = other.own_layout;
    has_own_layout = other.has_own_layout;
    if (has_own_layout) {
        view.layout = &own_layout;
    }
    module_base = other.module_base;
    is_ready = other.is_ready;
    method = other.method;
    std::memcpy(module_path, other.module_path, sizeof(module_path));
    return *this;
}

Result<Version> parse_version_text(const char* copy, std::size_t size_bytes) {
    const std::string_view text(copy, size_bytes);
    for (std::size_t at = text.find('.'); at != std::string_view::npos;
         at = text.find('.', at + 1)) {
        if (at == 0) {
            continue;
        }
        // The buffer is static: the text stands at its start, behind other data's last byte, and
        // what looks like it within a longer text (a path, a user agent) does not count.
        Version version;
        const std::size_t from = at - 1;
        const bool at_start = from == 0 || text[from - 1] == '\0';
        if (at_start && starts_version(text.substr(from, kVersionHeadBytes), version)) {
            return version;
        }
    }
    return fail(ErrorKind::kInvalid, "no version text");
}

Status locate_runtime(MemoryReader& reader, pid_t pid, LocatedRuntime& out) {
    out = {};
    bool has_found = false;
    Status outcome = fail(ErrorKind::kNotPython, "no CPython runtime in this process");
    Status walked = search(
        reader, pid, out, has_found, outcome,
        [&](const MappedRange&, const ElfImage& image) { return find_dynamic(reader, image); });
    ReadBudget file_budget(kSymbolFileLimits);
    if (walked && !has_found) {
        // Only executables: a library that does not export its runtime cannot be used by the
        // extension modules, and reading every library's file would take long.
        walked = search(reader, pid, out, has_found, outcome,
                        [&](const MappedRange& range, const ElfImage& image) -> Result<Found> {
                            if (!image.has_interpreter() && image.entry() == image.base()) {
                                return fail(ErrorKind::kInvalid, "not an executable");
                            }
                            return find_in_file(pid, range, image, file_budget);
                        });
    }
    if (walked && !has_found) {
        walked = search(reader, pid, out, has_found, outcome,
                        [&](const MappedRange&, const ElfImage& image) {
                            return find_older_python(reader, image);
                        });
    }
    if (walked && !has_found && file_budget.is_over()) {
        return fail(ErrorKind::kBoundExceeded,
                    "the symbol tables of its executables are larger than Echion reads");
    }
    return walked ? outcome : walked;
}

}  // namespace echion::cpython
