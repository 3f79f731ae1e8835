#include "inject/target_identity.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>

#include "platform/linux/proc_file.h"
#include "platform/process_rights.h"

namespace echion::inject {
namespace {

// Numbers of the fields of /proc/PID/stat, counted from 1 (proc(5)).
constexpr std::array<unsigned, 6> kPlaceFields = {26, 27, 28, 45, 46, 47};
constexpr unsigned kStackField = 28;
constexpr unsigned kFieldBehindName = 3;

/// The places in the text of a stat file; zeros where the kernel does not tell. The name in it is
/// the target's, and may hold anything but its own closing parenthesis at the end.
std::array<std::uint64_t, kPlaceFields.size()> parse_places(std::string_view text) {
    std::array<std::uint64_t, kPlaceFields.size()> places{};
    text.remove_prefix(std::min(text.size(), text.rfind(')') + 1));
    unsigned field = kFieldBehindName - 1;
    while (!text.empty()) {
        text.remove_prefix(std::min(text.size(), text.find_first_not_of(" \n")));
        const std::string_view word = text.substr(0, text.find_first_of(" \n"));
        text.remove_prefix(word.size());
        ++field;
        const auto* found = std::find(kPlaceFields.begin(), kPlaceFields.end(), field);
        if (found != kPlaceFields.end()) {
            (void)std::from_chars(word.data(), word.data() + word.size(),
                                  places[static_cast<std::size_t>(found - kPlaceFields.begin())]);
        }
    }
    return places;
}

constexpr std::size_t kStackPlace =
    std::find(kPlaceFields.begin(), kPlaceFields.end(), kStackField) - kPlaceFields.begin();

/// Whether a thread of `parent` waits for a child that it has lent its memory to: such a wait is
/// uninterruptible, in the call that made the child.
bool waits_for_vfork(pid_t parent) {
    bool is_found = false;
    (void)for_each_thread(parent, [&](pid_t tid) {
        const auto info = read_thread_info(parent, tid);
        if (info && info->state == 'D') {
            const auto call = read_blocked_call(parent, tid);
            is_found = call && (call->number == SYS_vfork || call->number == SYS_clone ||
                                call->number == SYS_clone3);
        }
        return !is_found;
    });
    return is_found;
}

}  // namespace

TargetIdentity::Image TargetIdentity::look(pid_t pid) {
    Image image;
    const std::string path = "/proc/" + std::to_string(pid) + "/exe";
    struct statx status {};
    // What the kernel knows already: a file system in user space is not asked, it might not answer.
    if (statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC, STATX_INO, &status) == 0) {
        image.executable_device = std::uint64_t{status.stx_dev_major} << 32 | status.stx_dev_minor;
        image.executable_inode = status.stx_ino;
    }
    std::array<char, 2048> text;
    if (const auto size = read_proc_text(pid, "stat", text.data(), text.size())) {
        image.places = parse_places({text.data(), *size});
    }
    return image;
}

Result<TargetIdentity> TargetIdentity::hold(pid_t pid, StallGuard* guard) {
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd) {
        return fail(ErrorKind::kSystem, "pidfd_open", errno);
    }
    TargetIdentity target(pid, std::move(pidfd));
    target.image_ = look(pid);
    auto memory = TargetMemory::open(pid, guard);
    if (!memory) {
        return tl::unexpected(memory.error());
    }
    target.memory_ = std::move(*memory);
    if (look(pid) != target.image_) {
        return fail(ErrorKind::kRefused, "the process has executed another program");
    }
    target.probe_ = Address(target.image_.places[kStackPlace]);
    const auto info = read_process_info(pid);
    if (!info) {
        return tl::unexpected(info.error());
    }
    target.at_first_ = *info;
    // All that was opened and read by the number was the process's only if it lives now.
    if (target.has_ended()) {
        return fail(ErrorKind::kSystem, "the process has ended", ESRCH);
    }
    if (target.probe_.is_null()) {
        return fail(ErrorKind::kSystem, "look at the process", EPERM);
    }
    if (!target.memory_.is_alive(target.probe_)) {
        return fail(ErrorKind::kRefused, "the process has executed another program");
    }
    return target;
}

bool TargetIdentity::has_ended(int patience_ms) const {
    pollfd entry{pidfd_.get(), POLLIN, 0};
    return poll(&entry, 1, patience_ms) == 1;
}

Status TargetIdentity::check() {
    const auto info = read_process_info(pid_);
    const bool is_same_image = memory_.is_alive(probe_) && look(pid_) == image_;
    // Last: only now is it sure whose files were read.
    if (!info || has_ended() || info->state == 'Z' || info->state == 'X') {
        return fail(ErrorKind::kSystem, "the process has ended", ESRCH);
    }
    if (!is_same_image) {
        return fail(ErrorKind::kRefused, "the process has executed another program");
    }
    if (has_gained_rights(at_first_, *info)) {
        return fail(ErrorKind::kRefused, "the process has gained rights");
    }
    return {};
}

Status TargetIdentity::check_thread(pid_t tid) {
    // Only a thread of this process has a folder there.
    if (tid != pid_ && !read_thread_info(pid_, tid)) {
        return fail(ErrorKind::kSystem, "the thread has ended", ESRCH);
    }
    return check();
}

bool TargetIdentity::shares_parents_memory() const {
    const pid_t parent = at_first_.parent_pid;
    if (parent <= 0) {
        return false;
    }
    const long compared = syscall(SYS_kcmp, pid_, parent, KCMP_VM, 0, 0);
    return compared < 0 ? waits_for_vfork(parent) : compared == 0;
}

}  // namespace echion::inject
