#include "output/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>
#include <vector>

#include "platform/files.h"

namespace echion::output {
namespace {

/// Writes all of it, and adds up what is written; an errno, or 0.
int write_all(int fd, std::string_view text, std::uint64_t& written) {
    while (!text.empty()) {
        const ssize_t count = ::write(fd, text.data(), text.size());
        if (count >= 0) {
            text.remove_prefix(static_cast<std::size_t>(count));
            written += static_cast<std::uint64_t>(count);
        } else if (errno == EAGAIN) {
            pollfd entry{fd, POLLOUT, 0};
            (void)poll(&entry, 1, -1);
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

}  // namespace

std::string find_spool_folder() {
    const char* folder = std::getenv("TMPDIR");
    return folder != nullptr && *folder != '\0' ? folder : "/tmp";
}

OutputFile::OutputFile(const std::string& path, OpenedOutput opened, WriteQueue::Begin begin)
    : path_(name_output(path)),
      folder_(std::move(opened.folder)),
      name_(std::move(opened.name)),
      queue_(std::move(opened.fd), begin),
      buffer_(std::make_unique_for_overwrite<char[]>(kBufferBytes)),
      created_(opened.created) {}

Result<OutputFile> OutputFile::open(const std::string& path, NameOrigin origin, Sharing sharing) {
    auto opened = open_output(path, origin);
    if (!opened) {
        return tl::unexpected(opened.error());
    }
    // Held as long as the file is open, and gone with the process. File systems without locks (some
    // network's) refuse in other ways, and are written all the same.
    const int fd = opened->fd.get();
    if (struct stat info{}; !opened->is_shared && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
                            flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        return fail(ErrorKind::kInvalid, "another program writes it at this moment");
    }
    auto begin = opened->is_shared ? WriteQueue::Begin::kWhereItStands : WriteQueue::Begin::kEmpty;
    UniqueFd shared;
    UniqueFd spool;
    const auto number = origin == NameOrigin::kUser ? find_own_descriptor(path) : std::nullopt;
    if (sharing == Sharing::kWithCommand && number && *number <= STDERR_FILENO) {
        begin = WriteQueue::Begin::kUnnamed;
        spool = make_unnamed_file(find_spool_folder().c_str());
        if (!spool) {
            return fail(ErrorKind::kSystem, kNoSpool, errno);
        }
        shared = std::exchange(opened->fd, UniqueFd(fcntl(spool.get(), F_DUPFD_CLOEXEC, 0)));
        if (!opened->fd) {
            return fail(ErrorKind::kSystem, "open the output", errno);
        }
    }
    OutputFile file(path, std::move(*opened), begin);
    file.shared_ = std::move(shared);
    file.spool_ = std::move(spool);
    if (file.has_failed()) {
        file.discard();
        return fail(ErrorKind::kSystem, "open the output", file.queue_.failure());
    }
    return file;
}

void OutputFile::mark_end() {
    if (used_ == 0 || (!marks_.empty() && marks_.back() == used_)) {
        return;
    }
    if (marks_.size() > 1 && marks_.back() - marks_[marks_.size() - 2] < kMarkSpacing) {
        marks_.back() = used_;
    } else {
        marks_.push_back(used_);
    }
}

/// Bytes in the buffer up to the last record's end; all, where none ends.
std::size_t OutputFile::count_whole() const {
    if (record_ends_ == RecordEnds::kMarked) {
        return marks_.empty() ? used_ : marks_.back();
    }
    const std::size_t end = std::string_view(buffer_.get(), used_).rfind('\n');
    return end == std::string_view::npos ? used_ : end + 1;
}

void OutputFile::append_slowly(std::string_view text) {
    while (!text.empty()) {
        if (used_ == kBufferBytes) {
            hand_over(count_whole());
        }
        const std::size_t part = std::min(text.size(), kBufferBytes - used_);
        text.copy(buffer_.get() + used_, part);
        used_ += part;
        text.remove_prefix(part);
    }
}

/// Hands over the first `bytes` of the buffer, no fewer than count_whole().
void OutputFile::hand_over(std::size_t bytes) {
    if (bytes == 0) {
        return;
    }
    written_ = true;
    auto rest = std::make_unique_for_overwrite<char[]>(kBufferBytes);
    used_ -= bytes;
    std::copy_n(buffer_.get() + bytes, used_, rest.get());
    queue_.push(
        {std::exchange(buffer_, std::move(rest)), bytes, record_ends_, std::exchange(marks_, {})});
}

void OutputFile::flush() {
    const bool has_no_end = record_ends_ == RecordEnds::kMarked && marks_.empty();
    if (queue_.waiting_bytes() == 0 && used_ != 0 && !has_no_end) {
        hand_over(count_whole());
    }
}

void OutputFile::finish() {
    hand_over(used_);
    queue_.finish();
}

Status OutputFile::status() const {
    if (is_discarded_) {
        return {};
    }
    if (queue_.failure() != 0) {
        return fail(ErrorKind::kSystem, kWriteFailed, queue_.failure());
    }
    if (queue_.was_given_up()) {
        return fail(ErrorKind::kBoundExceeded, "what it is written to takes no more");
    }
    if (queue_.has_vanished()) {
        return fail(ErrorKind::kSystem, "the output was removed while it was written", ENOENT);
    }
    return {};
}

Status OutputFile::close() {
    finish();
    queue_.wait();
    return status();
}

Status OutputFile::deliver() {
    if (!shared_ || is_discarded_) {
        return {};
    }
    std::vector<char> part(kBufferBytes);
    for (off_t at = 0;;) {
        const ssize_t size = pread(spool_.get(), part.data(), part.size(), at);
        if (size == 0) {
            return {};
        }
        const int error =
            size < 0 ? errno
                     : write_all(shared_.get(), {part.data(), static_cast<std::size_t>(size)},
                                 delivered_bytes_);
        if (error != 0) {
            return fail(ErrorKind::kSystem, kWriteFailed, error);
        }
        at += size;
    }
}

void OutputFile::discard() {
    if (created_ && !written_) {
        const int folder = folder_ ? folder_.get() : AT_FDCWD;
        struct stat opened {};
        struct stat named {};
        const bool same = fstat(queue_.fd(), &opened) == 0 &&
                          fstatat(folder, name_.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
                          opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
        if (same) {
            unlinkat(folder, name_.c_str(), 0);
        }
    }
    used_ = 0;
    if (!written_) {
        queue_.finish();
    }
    is_discarded_ = true;
}

}  // namespace echion::output
