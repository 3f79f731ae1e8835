#include "platform/files.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace echion {

const char* const kDescriptorFolders[] = {"/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/",
                                          nullptr};

bool has_power_over_files() {
    if (geteuid() == 0) {
        return true;
    }
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
    return syscall(SYS_capget, &header, data) == 0 &&
           (data[CAP_TO_INDEX(CAP_DAC_OVERRIDE)].effective & CAP_TO_MASK(CAP_DAC_OVERRIDE)) != 0;
}

bool has_links_to_open_files(int folder) {
    struct statfs info {};
    return fstatfs(folder, &info) == 0 && info.f_type == PROC_SUPER_MAGIC;
}

UniqueFd open_folder(int where, const char* name, bool follows_link) {
    constexpr int kFlags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    return UniqueFd(openat(where, name, follows_link ? kFlags : kFlags | O_NOFOLLOW));
}

bool is_open_for_writing(int fd) {
    const int flags = fcntl(fd, F_GETFL);
    // What stands for a closed stream may be open for nothing (O_PATH).
    return flags >= 0 && (flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY;
}

UniqueFd make_unnamed_file(const char* folder) {
    UniqueFd file(open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!file) {  // a file system that has no such files
        std::string name = std::string(folder) + "/echion-XXXXXX";
        file.reset(mkostemp(name.data(), O_CLOEXEC));
        if (file) {
            unlink(name.c_str());
        }
    }
    return file;
}

}  // namespace echion
