#include "platform/process_rights.h"

#include <linux/capability.h>

namespace echion {
namespace {

constexpr bool has_capability(std::uint64_t set, unsigned capability) {
    return (set >> capability & 1U) != 0;
}

bool had_uid(const ProcessInfo& before, uid_t uid) {
    return uid == before.real_uid || uid == before.effective_uid || uid == before.saved_uid;
}

bool had_gid(const ProcessInfo& before, gid_t gid) {
    return gid == before.real_gid || gid == before.effective_gid || gid == before.saved_gid;
}

}  // namespace

bool has_gained_rights(const ProcessInfo& before, const ProcessInfo& now) {
    if (has_capability(before.permitted_capabilities, CAP_SETUID)) {
        return false;
    }
    const bool same_user = had_uid(before, now.real_uid) && had_uid(before, now.effective_uid) &&
                           had_uid(before, now.saved_uid);
    const bool same_group = has_capability(before.permitted_capabilities, CAP_SETGID) ||
                            (had_gid(before, now.real_gid) && had_gid(before, now.effective_gid) &&
                             had_gid(before, now.saved_gid));
    return !same_user || !same_group ||
           (now.permitted_capabilities & ~before.permitted_capabilities) != 0;
}

}  // namespace echion
