// The parsers of what the kernel says of a process below /proc. The texts are the kernel's, but
// names, paths and their lengths in them are the target's.
//
//      input:  u8 which parser, then its text
//              0: a memory map      1: a status file     2: a syscall file
//              3: data that may hold Python's version     4: a stat file
//              5: a schedstat file  6: a status file, for the program's own rights
//              7: any file, line by line                  8: the lockdown file

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "cpython/locate.h"
#include "engine/privileges.h"
#include "fuzz_support.h"
#include "platform/linux/proc_file.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/thread_stat.h"

namespace {

using namespace echion;
using fuzz::require;

template <std::size_t size>
bool is_terminated(const char (&text)[size]) {
    return std::string_view(text, size).find('\0') != std::string_view::npos;
}

void parse_map_line(std::string_view line) {
    const auto range = parse_mapped_range(line);
    if (!range) {
        return;
    }
    require(range->start <= range->end && range->path.size() <= line.size());
    char path[256];
    if (unescape_path(range->path, path, sizeof(path))) {
        require(is_terminated(path));
    }
}

/// Each line is one of the text's, whole, and in its order.
void walk_lines(std::string_view text) {
    static const UniqueFd file(memfd_create("lines", MFD_CLOEXEC));
    require(file && ftruncate(file.get(), 0) == 0);
    require(pwrite(file.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
    require(lseek(file.get(), 0, SEEK_SET) == 0);
    std::size_t at = 0;
    const Status walked = for_each_line(file.get(), [&](std::string_view line) {
        require(line.find('\n') == std::string_view::npos);
        while (text.substr(at, text.find('\n', at) - at) != line) {
            at = text.find('\n', at);  // one that was too long
            require(at++ != std::string_view::npos);
        }
        const std::size_t end = text.find('\n', at);
        at = end == std::string_view::npos ? text.size() : end + 1;
        parse_map_line(line);
        return true;
    });
    require(walked.has_value());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % 9) {
        case 0:
            parse_map_line(text);
            break;
        case 1:
            if (const auto info = parse_process_status(text)) {
                require(is_terminated(info->name));
            }
            break;
        case 2:
            (void)parse_blocked_call(text);
            break;
        case 3:
            (void)cpython::parse_version_text(text.data(), text.size());
            break;
        case 4:
            if (const auto stat = parse_thread_stat(text)) {
                require(is_terminated(stat->name));
            }
            break;
        case 5:
            if (const auto run = parse_thread_run(text)) {
                require(run->run_ns > 0 && run->wait_ns >= 0 && run->slices >= 0);
            }
            break;
        case 6: {
            engine::Privileges privileges;
            engine::parse_status(std::string(text), privileges);
            break;
        }
        case 7:
            walk_lines(text);
            break;
        default:
            (void)engine::parse_lockdown(std::string(text));
            break;
    }
    return 0;
}
