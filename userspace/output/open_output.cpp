#include "output/open_output.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <climits>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/function_ref.h"
#include "output/formats.h"
#include "platform/files.h"

namespace echion::output {
namespace {

// O_NONBLOCK: no FIFO is waited for, here or when it is written; regular files ignore it.
constexpr int kFlags = O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
constexpr mode_t kUsersMode = 0666;  // less the umask
constexpr mode_t kPrivateMode = 0600;
constexpr mode_t kOthersMayWrite = S_IWGRP | S_IWOTH;

// A shell that starts the reader of a FIFO starts it about now, not in the next minutes.
constexpr int kReaderTries = 100;
constexpr std::int64_t kReaderTryPauseNs = 10'000'000;
/// Of names that come and go while they are looked at.
constexpr int kMaxRaces = 10;
/// The kernel's own bound on links in one path.
constexpr int kMaxLinks = 40;
constexpr char kNobodyReads[] = "it is a FIFO that nobody reads";

tl::unexpected<Error> refuse(const char* why) { return fail(ErrorKind::kInvalid, why); }
tl::unexpected<Error> cannot_open(int error) {
    return fail(ErrorKind::kSystem, "open the output", error);
}

/// Opens by `open_it`, and again for as long as a FIFO's reader may take to come.
UniqueFd open_with_reader(FunctionRef<int()> open_it, FunctionRef<bool()> is_fifo) {
    UniqueFd fd(open_it());
    for (int i = 0; !fd && errno == ENXIO && i < kReaderTries; ++i) {
        if (!is_fifo()) {
            errno = ENXIO;
            break;
        }
        sleep_ns(kReaderTryPauseNs);
        fd.reset(open_it());
    }
    return fd;
}

// --- The default name ---

/// An empty file counts as one: it was made for a profile that was never begun.
bool holds_profile(int fd) {
    std::array<char, 1024> head;
    const ssize_t size = pread(fd, head.data(), head.size(), 0);
    return size == 0 ||
           (size > 0 && begins_like_profile({head.data(), static_cast<std::size_t>(size)}));
}

const char* why_not_own_profile(const struct stat& info) {
    if (S_ISLNK(info.st_mode)) {
        return "a symbolic link of that name is there, and the default name is not written through "
               "one: remove it, or name the output with -o";
    }
    if (S_ISDIR(info.st_mode)) {
        return "a folder of that name is there: name the output with -o";
    }
    if (!S_ISREG(info.st_mode)) {
        return "what is there is no regular file, and the default name replaces nothing else: name "
               "the output with -o";
    }
    if (info.st_uid != geteuid()) {
        return "another user's file is there, and the default name replaces only own profiles: "
               "name the output with -o, in a folder of your own";
    }
    if (info.st_nlink > 1) {
        return "the file that is there has other names, too (hard links), and the default name "
               "does not write to those: remove it, or name the output with -o";
    }
    if (has_power_over_files() && (info.st_mode & kOthersMayWrite) != 0) {
        return "other users can write to the file that is there: remove it, or name the output "
               "with -o";
    }
    return nullptr;
}

Result<UniqueFd> open_own_profile(const char* name) {
    struct stat info {};
    // For the reason, and so that nothing is opened that others made. The answer that counts is the
    // one of the open file.
    if (fstatat(AT_FDCWD, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        return cannot_open(errno);
    }
    if (const char* why = why_not_own_profile(info)) {
        return refuse(why);
    }
    UniqueFd fd(open(name, (kFlags & ~O_WRONLY) | O_RDWR | O_NOFOLLOW));
    if (!fd || fstat(fd.get(), &info) != 0) {
        return cannot_open(errno);
    }
    if (const char* why = why_not_own_profile(info)) {
        return refuse(why);
    }
    if (!holds_profile(fd.get())) {
        return refuse(
            "the file that is there is no profile of Echion's, and the default name replaces "
            "nothing else: remove it, or name the output with -o");
    }
    if (has_power_over_files() && fchmod(fd.get(), kPrivateMode) != 0) {
        return cannot_open(errno);
    }
    return fd;
}

Result<OpenedOutput> open_default(const std::string& name) {
    const mode_t mode = has_power_over_files() ? kPrivateMode : kUsersMode;
    for (int i = 0; i < kMaxRaces; ++i) {
        UniqueFd fd(open(name.c_str(), kFlags | O_CREAT | O_EXCL | O_NOFOLLOW, mode));
        if (fd) {
            return OpenedOutput{std::move(fd), {}, name, true};
        }
        if (errno != EEXIST) {
            return cannot_open(errno);
        }
        auto existing = open_own_profile(name.c_str());
        if (existing) {
            return OpenedOutput{std::move(*existing), {}, name, false};
        }
        if (existing.error().system_errno != ENOENT && existing.error().system_errno != ELOOP) {
            return tl::unexpected(existing.error());
        }
    }
    return refuse(
        "what is there keeps changing: somebody else uses that name; name the output with -o");
}

// --- A user's name, without power over others' files ---

Result<OpenedOutput> open_plainly(const std::string& path) {
    UniqueFd fd(open(path.c_str(), kFlags | O_CREAT | O_EXCL, kUsersMode));
    if (fd) {
        return OpenedOutput{std::move(fd), {}, path, true};
    }
    if (errno == EEXIST) {
        fd = open_with_reader([&] { return open(path.c_str(), kFlags | O_CREAT, kUsersMode); },
                              [&] {
                                  struct stat info {};
                                  return stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
                              });
        struct stat info {};
        if (!fd && errno == ENXIO && stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode)) {
            return refuse(kNobodyReads);
        }
    }
    if (!fd) {
        return cannot_open(errno);
    }
    return OpenedOutput{std::move(fd), {}, path, false};
}

// --- A user's name, with power over others' files ---

/// Whether nobody but this user can put names into the folder. An access control list's rights
/// show in the group's bits.
bool is_own_folder(int folder) {
    struct stat info {};
    return fstat(folder, &info) == 0 && (info.st_uid == geteuid() || info.st_uid == 0) &&
           (info.st_mode & kOthersMayWrite) == 0;
}

bool is_link(int folder, const std::string& name) {
    struct stat info {};
    return fstatat(folder, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
}

/// What is there may be written in a folder of others only if it is this user's alone.
const char* why_not_written(const struct stat& info, bool in_own_folder) {
    if (in_own_folder) {
        return nullptr;
    }
    if (!S_ISREG(info.st_mode) && !S_ISFIFO(info.st_mode) && !S_ISDIR(info.st_mode)) {
        return "it is neither a regular file nor a FIFO, in a folder that other users can write "
               "to: root writes no such thing; use a folder that only root can write to";
    }
    if (info.st_uid != geteuid() && !S_ISDIR(info.st_mode)) {
        return "it is another user's, in a folder that other users can write to: root does not "
               "write to it; use another name, or a folder that only root can write to";
    }
    if (info.st_nlink > 1 && !S_ISDIR(info.st_mode)) {
        return "it has other names, too (hard links), and is in a folder that other users can "
               "write to: root does not write to it; remove it, or use a folder that only root "
               "can write to";
    }
    return nullptr;
}

constexpr char kForeignLink[] =
    "it is a symbolic link in a folder that other users can write to: root does not follow it; "
    "name the file itself, or use a folder that only root can write to";
constexpr char kForeignLinkOnTheWay[] =
    "there is a symbolic link on the way to it, in a folder that other users can write to: root "
    "does not follow it; name the folder itself";

/// The way to a file, folder by folder. A link in an own folder is followed by going the way that
/// it names; one that stands for an open file, and names no way, by the kernel.
class Walk {
  public:
    explicit Walk(const std::string& path) : rest_(path) {}

    Result<OpenedOutput> open_end();

  private:
    /// Goes on until `name_` is the last part of the way.
    Status enter_folders();
    Status enter(const std::string& part);
    /// Puts the content of the link `name` in front of what is left of the way.
    Status follow(const std::string& name, const char* why_not);
    Result<UniqueFd> open_existing(bool is_own);
    Status begin_at(int where, const char* folder) {
        folder_ = open_folder(where, folder);
        return folder_ ? Status() : cannot_open(errno);
    }

    std::string rest_;
    UniqueFd folder_;
    std::string name_;
    int links_ = 0;
};

Status Walk::follow(const std::string& name, const char* why_not) {
    if (!is_own_folder(folder_.get())) {
        return refuse(why_not);
    }
    if (++links_ > kMaxLinks) {
        return cannot_open(ELOOP);
    }
    std::array<char, PATH_MAX> target;
    const ssize_t size = readlinkat(folder_.get(), name.c_str(), target.data(), target.size());
    if (size <= 0 || static_cast<std::size_t>(size) == target.size()) {
        return cannot_open(size < 0 ? errno : ENAMETOOLONG);
    }
    const std::string way(target.data(), static_cast<std::size_t>(size));
    rest_ = rest_.empty() ? way : way + "/" + rest_;
    return {};
}

Status Walk::enter(const std::string& part) {
    UniqueFd next = open_folder(folder_.get(), part.c_str(), false);
    const int error = errno;
    if (!next && is_link(folder_.get(), part)) {
        if (!has_links_to_open_files(folder_.get())) {
            return follow(part, kForeignLinkOnTheWay);
        }
        if (!is_own_folder(folder_.get())) {
            return refuse(kForeignLinkOnTheWay);
        }
        next = open_folder(folder_.get(), part.c_str());
    } else if (!next) {
        return cannot_open(error);
    }
    if (!next) {
        return cannot_open(errno);
    }
    folder_ = std::move(next);
    return {};
}

Status Walk::enter_folders() {
    for (;;) {
        if (rest_.starts_with('/')) {
            if (auto status = begin_at(AT_FDCWD, "/"); !status) {
                return status;
            }
        } else if (!folder_) {
            if (auto status = begin_at(AT_FDCWD, "."); !status) {
                return status;
            }
        }
        rest_.erase(0, rest_.find_first_not_of('/'));
        const std::size_t end = rest_.find('/');
        if (end == rest_.npos) {
            name_ = std::exchange(rest_, {});
            return name_.empty() || name_ == "." || name_ == ".." ? Status(cannot_open(EISDIR))
                                                                  : Status();
        }
        const std::string part = rest_.substr(0, end);
        // What begins with a slash goes on from the root, which a link alone may do.
        rest_.erase(0, rest_.find_first_not_of('/', end) == rest_.npos
                           ? rest_.size()
                           : rest_.find_first_not_of('/', end));
        if (rest_.empty()) {
            return cannot_open(EISDIR);  // it ends in a slash
        }
        if (auto status = enter(part); !status) {
            return status;
        }
    }
}

Result<UniqueFd> Walk::open_existing(bool is_own) {
    struct stat info {};
    const auto look = [&] {
        return fstatat(folder_.get(), name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
    };
    // For the reason, and so that no FIFO of others is waited for.
    if (look() && !S_ISLNK(info.st_mode)) {
        if (const char* why = why_not_written(info, is_own)) {
            return refuse(why);
        }
    }
    UniqueFd fd =
        open_with_reader([&] { return openat(folder_.get(), name_.c_str(), kFlags | O_NOFOLLOW); },
                         [&] { return look() && S_ISFIFO(info.st_mode); });
    if (!fd) {
        const int error = errno;
        if (error == ENXIO && look() && S_ISFIFO(info.st_mode)) {
            return refuse(kNobodyReads);
        }
        return cannot_open(error);
    }
    if (fstat(fd.get(), &info) != 0) {
        return cannot_open(errno);
    }
    if (const char* why = why_not_written(info, is_own)) {
        return refuse(why);
    }
    return fd;
}

Result<OpenedOutput> Walk::open_end() {
    if (auto status = enter_folders(); !status) {
        return tl::unexpected(status.error());
    }
    for (int i = 0; i < kMaxRaces; ++i) {
        const bool is_own = is_own_folder(folder_.get());
        UniqueFd fd(openat(folder_.get(), name_.c_str(), kFlags | O_CREAT | O_EXCL | O_NOFOLLOW,
                           kUsersMode));
        if (fd) {
            return OpenedOutput{std::move(fd), std::move(folder_), name_, true};
        }
        // EEXIST from what can be written to; /dev/fd and read-only file systems say it otherwise.
        const int error = errno;
        struct stat info {};
        if (fstatat(folder_.get(), name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
            if (error == EEXIST) {
                continue;  // gone again
            }
            return cannot_open(error);
        }
        if (S_ISLNK(info.st_mode)) {
            if (is_own && has_links_to_open_files(folder_.get())) {
                // An open file of a process of this user's: /dev/stdout, /dev/fd/3.
                fd = open_with_reader([&] { return openat(folder_.get(), name_.c_str(), kFlags); },
                                      [] { return false; });
                return fd ? Result<OpenedOutput>(OpenedOutput{std::move(fd), {}, {}, false})
                          : cannot_open(errno);
            }
            if (auto status = follow(name_, kForeignLink); !status) {
                return tl::unexpected(status.error());
            }
            if (auto status = enter_folders(); !status) {
                return tl::unexpected(status.error());
            }
            i = -1;  // bounded by kMaxLinks
            continue;
        }
        auto existing = open_existing(is_own);
        if (existing) {
            return OpenedOutput{std::move(*existing), std::move(folder_), name_, false};
        }
        if (existing.error().system_errno != ENOENT && existing.error().system_errno != ELOOP) {
            return tl::unexpected(existing.error());
        }
    }
    return refuse("what is there keeps changing: somebody else uses that name; use another");
}

// --- A descriptor that is open ---

Result<OpenedOutput> open_own_descriptor(int number) {
    if (!is_open_for_writing(number)) {
        return refuse("it is closed, or not open for writing: name a file");
    }
    // O_NONBLOCK would be that of all who share it: WriteQueue's thread waits instead.
    UniqueFd fd(fcntl(number, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (!fd) {
        return cannot_open(errno);
    }
    OpenedOutput opened{std::move(fd), {}, {}, false};
    opened.is_shared = true;
    return opened;
}

}  // namespace

std::optional<int> find_own_descriptor(std::string_view path) {
    if (path == kStandardOutput || path == "/dev/stdout") {
        return STDOUT_FILENO;
    }
    if (path == "/dev/stderr") {
        return STDERR_FILENO;
    }
    for (const char* const* folder = kDescriptorFolders; *folder != nullptr; ++folder) {
        int number = 0;
        if (path.starts_with(*folder)) {
            path.remove_prefix(std::string_view(*folder).size());
            const auto [end, error] =
                std::from_chars(path.data(), path.data() + path.size(), number);
            const bool is_number = error == std::errc() && end == path.data() + path.size();
            return is_number && number >= 0 ? std::optional(number) : std::nullopt;
        }
    }
    return std::nullopt;
}

std::string name_output(const std::string& path) {
    const auto number = find_own_descriptor(path);
    return number == STDOUT_FILENO   ? "standard output"
           : number == STDERR_FILENO ? "standard error"
                                     : path;
}

Result<OpenedOutput> open_output(const std::string& path, NameOrigin origin) {
    if (origin == NameOrigin::kDefault) {
        return open_default(path);
    }
    if (const auto number = find_own_descriptor(path)) {
        return open_own_descriptor(*number);
    }
    return has_power_over_files() ? Walk(path).open_end() : open_plainly(path);
}

}  // namespace echion::output
