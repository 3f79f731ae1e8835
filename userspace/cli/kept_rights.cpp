#include "cli/kept_rights.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "cli/message.h"
#include "cli/privileges.h"
#include "platform/process_info.h"

namespace echion::cli {
namespace {

constexpr std::uint64_t bit(Capability capability) {
    return std::uint64_t{1} << static_cast<int>(capability);
}

/// The calling thread's sets, as capget(2) has them.
struct Sets {
    std::uint64_t effective = 0;
    std::uint64_t permitted = 0;
    std::uint64_t inheritable = 0;
};

using Words = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

Result<Sets> read_sets() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    Words words{};
    if (syscall(SYS_capget, &header, words.data()) != 0) {
        return fail(ErrorKind::kSystem, "read the capabilities", errno);
    }
    const auto join = [](std::uint32_t low, std::uint32_t high) {
        return std::uint64_t{high} << 32U | low;
    };
    return Sets{join(words[0].effective, words[1].effective),
                join(words[0].permitted, words[1].permitted),
                join(words[0].inheritable, words[1].inheritable)};
}

Status write_sets(const Sets& sets) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    Words words{};
    for (std::size_t i = 0; i < words.size(); ++i) {
        words[i].effective = static_cast<std::uint32_t>(sets.effective >> 32U * i);
        words[i].permitted = static_cast<std::uint32_t>(sets.permitted >> 32U * i);
        words[i].inheritable = static_cast<std::uint32_t>(sets.inheritable >> 32U * i);
    }
    if (syscall(SYS_capset, &header, words.data()) != 0) {
        return fail(ErrorKind::kSystem, "give up capabilities", errno);
    }
    return {};
}

std::uint64_t choose(const NeededRights& needed, std::uint64_t permitted) {
    std::uint64_t kept = 0;
    kept |= needed.bpf ? bit(Capability::kBpf) | bit(Capability::kPerfmon) : 0;
    kept |= needed.perf_events ? bit(Capability::kPerfmon) : 0;
    if ((kept & ~permitted) != 0) {
        kept |= bit(Capability::kSysAdmin);  // which stands in for both
    }
    kept |= needed.other_processes ? bit(Capability::kSysPtrace) : 0;
    kept |= needed.signals ? bit(Capability::kKill) : 0;
    return kept & permitted;
}

/// Whether a file can be removed with `kept` only: the folder may be another user's.
bool may_remove(const std::string& path, std::uint64_t kept, const Sets& before) {
    const std::size_t slash = path.rfind('/');
    const std::string folder =
        slash == std::string::npos ? "." : path.substr(0, slash == 0 ? 1 : slash);
    if (!write_sets({kept & before.effective, before.permitted, before.inheritable})) {
        return true;
    }
    const bool may =
        faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) == 0 || errno != EACCES;
    (void)write_sets(before);
    return may;
}

/// Needs CAP_SETPCAP; without, this process can gain nothing by its exec either (no_new_privs).
void limit_bounding_set(std::uint64_t kept) {
    for (unsigned long capability = 0; capability < 64; ++capability) {
        if ((kept >> capability & 1U) == 0 && prctl(PR_CAPBSET_READ, capability) == 1) {
            (void)prctl(PR_CAPBSET_DROP, capability);
        }
    }
}

/// Waits a little: a thread that has been joined is in the kernel's list for some moments more.
bool is_only_thread() {
    constexpr int kLooks = 500;
    constexpr std::int64_t kLookEveryNs = 1'000'000;
    for (int look = 0; look < kLooks; ++look) {
        int threads = 0;
        const Status listed = for_each_thread(0, [&threads](pid_t) { return ++threads < 2; });
        if (!listed || threads < 2) {
            return true;
        }
        const timespec moment = make_timespec(kLookEveryNs);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
    }
    return false;
}

std::string name_all(std::uint64_t capabilities) {
    std::string names;
    for (const Capability one :
         {Capability::kDacOverride, Capability::kKill, Capability::kSysPtrace,
          Capability::kSysAdmin, Capability::kPerfmon, Capability::kBpf}) {
        if ((capabilities & bit(one)) != 0) {
            names += (names.empty() ? "" : ", ") + std::string(capability_name(one));
        }
    }
    return names.empty() ? "none" : names;
}

}  // namespace

Result<std::string> keep_rights(const NeededRights& needed) {
    const auto before = read_sets();
    if (!before) {
        return tl::unexpected(before.error());
    }
    if (!is_only_thread()) {
        return fail(ErrorKind::kInvalid, "give up capabilities: other threads keep theirs");
    }
    std::uint64_t kept = choose(needed, before->permitted);
    const std::uint64_t override = bit(Capability::kDacOverride) & before->permitted;
    if (!needed.output.empty() && override != 0 && !may_remove(needed.output, kept, *before)) {
        kept |= override;
    }
    limit_bounding_set(kept);
    if (auto status = write_sets({kept & before->effective, kept, 0}); !status) {
        return tl::unexpected(status.error());
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return fail(ErrorKind::kSystem, "give up gaining rights (no_new_privs)", errno);
    }
    return name_all(kept);
}

void keep_rights_only(const Options& options, const NeededRights& needed) {
    const auto kept = keep_rights(needed);
    if (!kept) {
        say("this program keeps more rights than it needs: {}", describe(kept.error()));
    } else if (options.verbose) {
        say("capabilities kept: {}", *kept);
    }
}

}  // namespace echion::cli
