#include "output/output_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace echion::output {
namespace {

/// Bytes up to the last line's end; all, where there is no line's end.
std::size_t count_whole_lines(std::string_view text) {
    const std::size_t end = text.rfind('\n');
    return end == text.npos ? text.size() : end + 1;
}

}  // namespace

OutputFile::OutputFile(std::string path, OpenedOutput opened)
    : path_(opened.is_shared ? "standard output" : std::move(path)),
      folder_(std::move(opened.folder)),
      name_(std::move(opened.name)),
      queue_(std::move(opened.fd),
             opened.is_shared ? WriteQueue::Begin::kWhereItStands : WriteQueue::Begin::kEmpty),
      buffer_(std::make_unique_for_overwrite<char[]>(kBufferBytes)),
      created_(opened.created) {}

Result<OutputFile> OutputFile::open(const std::string& path, NameOrigin origin) {
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
    OutputFile file(path, std::move(*opened));
    if (file.has_failed()) {
        file.discard();
        return fail(ErrorKind::kSystem, "open the output", file.queue_.failure());
    }
    return file;
}

void OutputFile::append_slowly(std::string_view text) {
    while (!text.empty()) {
        if (used_ == kBufferBytes) {
            hand_over(count_whole_lines({buffer_.get(), used_}));
        }
        const std::size_t part = std::min(text.size(), kBufferBytes - used_);
        text.copy(buffer_.get() + used_, part);
        used_ += part;
        text.remove_prefix(part);
    }
}

/// Hands over the first `bytes` of the buffer.
void OutputFile::hand_over(std::size_t bytes) {
    if (bytes == 0) {
        return;
    }
    written_ = true;
    auto rest = std::make_unique_for_overwrite<char[]>(kBufferBytes);
    used_ -= bytes;
    std::copy_n(buffer_.get() + bytes, used_, rest.get());
    queue_.push({std::exchange(buffer_, std::move(rest)), bytes});
}

void OutputFile::flush() {
    if (queue_.waiting_bytes() == 0 && used_ != 0) {
        hand_over(count_whole_lines({buffer_.get(), used_}));
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
        return fail(ErrorKind::kSystem, "write the output", queue_.failure());
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
