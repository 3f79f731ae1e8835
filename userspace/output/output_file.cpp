#include "output/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <utility>

namespace echion::output {
namespace {

// A shell that starts the reader of a FIFO starts it about now, not in the next minutes.
constexpr int kReaderTries = 100;
constexpr timespec kReaderTryPause{0, 10'000'000};

bool is_fifo(const std::string& path) {
    struct stat info {};
    return stat(path.c_str(), &info) == 0 && S_ISFIFO(info.st_mode);
}

/// open() that does not wait for ever for a FIFO's reader; writing blocks all the same.
UniqueFd open_existing(const std::string& path, int flags) {
    UniqueFd fd(::open(path.c_str(), flags | O_NONBLOCK, 0666));
    for (int i = 0; !fd && errno == ENXIO && is_fifo(path) && i < kReaderTries; ++i) {
        nanosleep(&kReaderTryPause, nullptr);
        fd.reset(::open(path.c_str(), flags | O_NONBLOCK, 0666));
    }
    if (fd && fcntl(fd.get(), F_SETFL, flags) != 0) {
        fd.reset();
    }
    return fd;
}

}  // namespace

OutputFile::OutputFile(std::string path, UniqueFd fd, bool created)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      buffer_(std::make_unique<char[]>(kBufferBytes)),
      created_(created) {}

Result<OutputFile> OutputFile::open(const std::string& path) {
    constexpr int kFlags = O_WRONLY | O_CLOEXEC | O_NOCTTY;
    bool created = true;
    UniqueFd fd(::open(path.c_str(), kFlags | O_CREAT | O_EXCL, 0666));
    if (!fd && errno == EEXIST) {
        created = false;
        fd = open_existing(path, kFlags | O_CREAT);
    }
    if (!fd && errno == ENXIO && is_fifo(path)) {
        return fail(ErrorKind::kInvalid, "it is a FIFO that nobody reads");
    }
    if (!fd) {
        return fail(ErrorKind::kSystem, "open the output", errno);
    }
    // Held as long as the file is open, and gone with the process. File systems without locks (some
    // network's) refuse in other ways, and are written all the same.
    if (struct stat info{}; fstat(fd.get(), &info) == 0 && S_ISREG(info.st_mode) &&
                            flock(fd.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return fail(ErrorKind::kInvalid, "another program writes it at this moment");
    }
    return OutputFile(path, std::move(fd), created);
}

void OutputFile::append_slowly(std::string_view text) {
    flush();
    if (text.size() >= kBufferBytes) {
        write_out(text);
    } else {
        append(text);
    }
}

void OutputFile::flush() {
    write_out({buffer_.get(), used_});
    used_ = 0;
}

void OutputFile::write_out(std::string_view text) {
    if (text.empty() || failure_ != 0) {
        return;
    }
    if (!std::exchange(written_, true)) {
        // Fails on what is no regular file, and does not matter there.
        if (ftruncate(fd_.get(), 0) != 0 && errno != EINVAL) {
            failure_ = errno;
            return;
        }
    }
    while (!text.empty()) {
        const ssize_t count = ::write(fd_.get(), text.data(), text.size());
        if (count < 0) {
            if (errno == EINTR) {
                continue;
            }
            failure_ = errno;
            return;
        }
        text.remove_prefix(static_cast<std::size_t>(count));
    }
}

Status OutputFile::close() {
    flush();
    struct stat info {};
    const bool vanished =
        fstat(fd_.get(), &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink == 0;
    // Some file systems (NFS, quotas) report what went wrong only here.
    if (::close(fd_.release()) != 0 && failure_ == 0 && errno != EINTR) {
        failure_ = errno;
    }
    if (failure_ != 0) {
        return fail(ErrorKind::kSystem, "write the output", failure_);
    }
    if (vanished) {
        return fail(ErrorKind::kSystem, "the output was removed while it was written", ENOENT);
    }
    return {};
}

void OutputFile::discard() {
    if (created_ && !written_) {
        struct stat opened {};
        struct stat named {};
        const bool same = fstat(fd_.get(), &opened) == 0 && lstat(path_.c_str(), &named) == 0 &&
                          opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
        if (same) {
            unlink(path_.c_str());
        }
    }
    used_ = 0;
    fd_.reset();
}

}  // namespace echion::output
