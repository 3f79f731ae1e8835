#include "cli/memory_limits.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <optional>

#include "cli/options.h"
#include "cli/quantities.h"
#include "platform/linux/proc_file.h"
#include "platform/process_info.h"

namespace echion::cli {
namespace {

struct Limit {
    std::string_view key;  // as the kernel calls it (lnames in fs/proc/base.c)
    std::string_view what;
    std::string_view shells;    // option of ulimit
    std::string_view programs;  // option of prlimit(1)
};

constexpr std::string_view kLockedMemory = "Max locked memory";
constexpr unsigned kCapIpcLock = 14;  // capabilities(7)

constexpr std::array<Limit, 3> kLimits = {{
    {"Max address space", "address space", "-v", "--as"},
    {"Max data size", "data", "-d", "--data"},
    {kLockedMemory, "locked memory", "-l", "--memlock"},
}};

}  // namespace

std::optional<std::uint64_t> find_soft_limit(std::string_view limits, std::string_view key) {
    const std::size_t at = limits.find(key);
    if (at == limits.npos) {
        return std::nullopt;
    }
    std::string_view rest = limits.substr(at + key.size());
    rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(' ')));
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    return error == std::errc() ? std::optional(value) : std::nullopt;
}

std::string describe_memory_limits(std::string_view limits, pid_t pid, bool locks_memory) {
    std::string found;
    std::string remedy;
    for (const Limit& limit : kLimits) {
        if (limit.key == kLockedMemory && !locks_memory) {
            continue;
        }
        if (const auto bytes = find_soft_limit(limits, limit.key)) {
            found += fmt::format("{}its {} is limited to {} (ulimit {})", found.empty() ? "" : ", ",
                                 limit.what, format_size(*bytes), limit.shells);
            remedy += fmt::format(" {}=unlimited", limit.programs);
        }
    }
    return found.empty() ? "" : fmt::format("{}; remedy: prlimit --pid {}{}", found, pid, remedy);
}

std::string explain_memory_limits(pid_t pid, bool locks_memory) {
    std::array<char, 4096> text;
    const auto size = read_proc_text(pid, "limits", text.data(), text.size());
    const auto info = read_process_info(pid);
    const bool is_limited = info && (info->effective_capabilities >> kCapIpcLock & 1) == 0;
    const bool may_lack = is_limited && (locks_memory || info->locked_kilobytes != 0);
    const std::string told =
        size ? describe_memory_limits({text.data(), *size}, pid, may_lack) : "";
    return told.empty() ? "" : "; " + told;
}

}  // namespace echion::cli
