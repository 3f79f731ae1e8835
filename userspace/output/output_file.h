#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion::output {

/// A file that is written front to back through a large buffer. The first failure is kept and
/// everything after it dropped, so that whoever writes can go on without looking: a full disk must
/// not stop the draining of the ring, which would cost the target.
class OutputFile {
  public:
    /// Opens or creates `path` for writing. A file that exists keeps its content until something is
    /// written; a FIFO must have a reader within a second. kSystem with errno; kInvalid for a FIFO
    /// that nobody reads, and for a regular file that another process has opened by this function.
    static Result<OutputFile> open(const std::string& path);

    OutputFile(OutputFile&&) = default;
    OutputFile& operator=(OutputFile&&) = default;

    void append(std::string_view text) {
        if (text.size() > kBufferBytes - used_) {
            append_slowly(text);
            return;
        }
        text.copy(buffer_.get() + used_, text.size());
        used_ += text.size();
    }
    /// Writes out what is buffered. May block, on a pipe.
    void flush();
    /// Flushes and closes; the first failure of all, if any. A file that was removed while it was
    /// being written counts as a failure (ENOENT): nobody will ever read it.
    Status close();
    /// Closes, and removes the file if it was created by this object and nothing was written to it.
    void discard();

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] bool has_failed() const { return failure_ != 0; }

  private:
    static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

    OutputFile(std::string path, UniqueFd fd, bool created);
    void append_slowly(std::string_view text);
    void write_out(std::string_view text);

    std::string path_;
    UniqueFd fd_;
    std::unique_ptr<char[]> buffer_;
    std::size_t used_ = 0;
    bool created_ = false;
    bool written_ = false;
    int failure_ = 0;  // errno
};

}  // namespace echion::output
