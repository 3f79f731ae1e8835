#include "cli/program_facts.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <span>
#include <string_view>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "console/message.h"
#include "console/refusal.h"
#include "platform/program_file.h"

namespace echion::cli {
namespace {

/// The kernel follows so many `#!` lines (fs/exec.c).
constexpr int kMaxInterpreters = 5;
/// Of a script's first line the kernel reads so many bytes (BINPRM_BUF_SIZE), and the program
/// headers of any real program lie within a page.
constexpr std::size_t kHeadBytes = 4096;
constexpr std::size_t kScriptLineBytes = 256;
/// Within so long most commands have come to their Python, if they have one.
constexpr std::int64_t kLongStartNs = 5 * kNanosPerSecond;

std::string find_in_path(const std::string& name) {
    if (name.find('/') != name.npos) {
        return access(name.c_str(), X_OK) == 0 ? name : "";
    }
    const char* variable = getenv("PATH");
    std::string_view rest = variable != nullptr ? variable : "/bin:/usr/bin";
    for (;;) {
        const std::size_t end = rest.find(':');
        const std::string_view folder = rest.substr(0, end);
        const std::string path = fmt::format("{}/{}", folder.empty() ? "." : folder, name);
        struct stat info {};
        if (access(path.c_str(), X_OK) == 0 && stat(path.c_str(), &info) == 0 &&
            S_ISREG(info.st_mode)) {
            return path;
        }
        if (end == rest.npos) {
            return {};
        }
        rest.remove_prefix(end + 1);
    }
}

bool is_privileged(int fd) {
    struct stat info {};
    if (fstat(fd, &info) != 0) {
        return false;
    }
    const bool other_user = (info.st_mode & S_ISUID) != 0 && info.st_uid != geteuid();
    const bool other_group = (info.st_mode & S_ISGID) != 0 && info.st_gid != getegid();
    const bool capable = geteuid() != 0 && fgetxattr(fd, "security.capability", nullptr, 0) > 0;
    return other_user || other_group || capable;
}

/// The program that a script's first line names; for `/usr/bin/env name`, that name.
std::string find_interpreter(std::string_view head) {
    std::string_view line = head.substr(2, kScriptLineBytes);
    line = line.substr(0, line.find('\n'));
    const auto next_word = [&] {
        line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
        const std::string_view word = line.substr(0, line.find_first_of(" \t\r"));
        line.remove_prefix(word.size());
        return word;
    };
    const std::string_view program = next_word();
    const std::string_view argument = next_word();
    if (program.ends_with("/env") && !argument.empty() && argument[0] != '-') {
        return std::string(argument);
    }
    return std::string(program);
}

}  // namespace

ProgramFacts inspect_program(const std::string& name) {
    ProgramFacts facts;
    std::string next = name;
    for (int i = 0; i < kMaxInterpreters; ++i) {
        facts.path = find_in_path(next);
        const UniqueFd fd(open(facts.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
        std::array<char, kHeadBytes> buffer;
        const ssize_t size = fd ? pread(fd.get(), buffer.data(), buffer.size(), 0) : -1;
        if (size < 0) {
            return facts;
        }
        const std::string_view head(buffer.data(), static_cast<std::size_t>(size));
        if (head.starts_with("#!")) {
            next = find_interpreter(head);
            continue;
        }
        facts.is_privileged = is_privileged(fd.get());
        const ProgramFile program = parse_program_file(std::as_bytes(std::span(head)));
        facts.is_other_word_size = program.program_class == ProgramClass::kOtherWidth;
        facts.is_static = program.is_static;
        return facts;
    }
    return facts;
}

std::string explain_no_python(const std::string& name, const NoPython& run) {
    const ProgramFacts facts = inspect_program(name);
    std::string why =
        "it ran none, or LD_PRELOAD or an inherited descriptor did not reach it (the environment "
        "was changed, descriptors were closed, or sudo or a container is between), or it loaded "
        "one older than 3.8 or by dlmopen or RTLD_DEEPBIND; a running one can be sampled with -p";
    const bool loads_no_agent = facts.is_privileged || facts.is_static || facts.is_other_word_size;
    if (facts.is_privileged) {
        why =
            "it runs with more rights than yours (set-uid, set-gid or capabilities), and such "
            "programs load no agent; sample it with -p as root";
    } else if (facts.is_static) {
        why = "it is linked statically and loads no agent; sample it with -p";
    } else if (facts.is_other_word_size) {
        why = fmt::format("it is {}", kOtherWidthProgram);
    }
    const std::string who = make_printable(facts.path.empty() ? name : facts.path);
    if (run.signal == 0 || loads_no_agent) {
        return fmt::format("no Python was seen in {}, so there is no profile: {}", who, why);
    }
    const std::string what =
        fmt::format("{} came before any Python was seen in {}, so there is no profile",
                    name_signal(run.signal), who);
    return run.lived_ns < kLongStartNs ? what
                                       : fmt::format("{}; in the {} s until then {}", what,
                                                     run.lived_ns / kNanosPerSecond, why);
}

}  // namespace echion::cli
