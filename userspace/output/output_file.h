#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "output/open_output.h"
#include "output/write_queue.h"

namespace echion::output {

/// Whether a command may be writing to the standard streams of this process.
enum class Sharing { kAlone, kWithCommand };

/// Error::what of OutputFile::open() where no file can be made that keeps the profile until the
/// command ends.
inline constexpr char kNoSpool[] = "make the file that keeps the profile until the command ends";
/// Error::what where a write has failed.
inline constexpr char kWriteFailed[] = "write the output";

/// The folder that the file of kNoSpool is made in: TMPDIR, or /tmp.
std::string find_spool_folder();

/// A file that is written front to back. Whoever appends is never kept waiting: what does not fit
/// into the buffer waits in memory for a thread that writes it (WriteQueue). is_behind() tells when
/// so much waits that no more should be made for now; nothing is dropped for that. The first
/// failure is kept and everything after it dropped, so that whoever writes can go on without
/// looking: a full disk must not stop the draining of the ring.
class OutputFile {
  public:
    /// Opens or creates `path` for writing; see open_output(). A file that exists keeps its content
    /// until something is written. kInvalid too for a regular file that another process has opened
    /// by this function. kStandardOutput is written on from where it stands.
    /// Where it is shared with a command (standard output), it is kept in a file without a name
    /// until deliver().
    static Result<OutputFile> open(const std::string& path, NameOrigin origin = NameOrigin::kUser,
                                   Sharing sharing = Sharing::kAlone);

    void append(std::string_view text) {
        appended_bytes_ += text.size();
        if (text.size() > kBufferBytes - used_) {
            append_slowly(text);
            return;
        }
        text.copy(buffer_.get() + used_, text.size());
        used_ += text.size();
    }
    /// For binary formats: records end where mark_end() is called, and not with each line. Before
    /// the first append().
    void use_marks() { record_ends_ = RecordEnds::kMarked; }
    /// After use_marks(): what has been appended so far makes whole records.
    void mark_end();
    /// Has what is buffered written, unless more waits to be written already. What is written in
    /// one piece ends with a record, so that whoever reads, or this program's end at any moment,
    /// finds whole records. Only a record of more than a buffer is written in parts.
    void flush();

    /// The end: has everything written, then the file closed. has_ended() tells when that is done,
    /// ended_fd() is readable then, status() says how it went.
    void finish();
    [[nodiscard]] bool has_ended() const { return is_discarded_ || queue_.has_ended(); }
    [[nodiscard]] int ended_fd() const { return queue_.ended_fd(); }
    /// The first failure of all, if any: a regular file then ends with a record that was
    /// written whole: the last one, or one that ends up to kMarkSpacing in front of it. A file that
    /// was removed while it was being written counts as a failure (ENOENT): nobody will ever read
    /// it. kBoundExceeded after give_up().
    [[nodiscard]] Status status() const;
    /// finish(), and waits for it.
    Status close();
    /// Does not wait for what is still to be written.
    void give_up() { queue_.give_up(); }
    /// Closes, and removes the file if it was created by this object and nothing was written to it.
    void discard();

    /// After the end: has what was kept for an output that is shared with a command written there.
    /// Waits for it. Nothing for other outputs.
    Status deliver();

    /// For messages.
    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] bool has_failed() const { return queue_.failure() != 0; }
    [[nodiscard]] bool is_behind() const { return queue_.waiting_bytes() > kMaxWaitingBytes; }
    [[nodiscard]] std::uint64_t waiting_bytes() const { return queue_.waiting_bytes(); }
    [[nodiscard]] std::uint64_t written_bytes() const { return queue_.written_bytes(); }
    [[nodiscard]] std::uint64_t appended_bytes() const { return appended_bytes_; }
    /// Bytes that were not written when it was given up.
    [[nodiscard]] std::uint64_t left_bytes() const { return queue_.left_bytes(); }
    /// For after the end: bytes that the file holds; none, if it was removed.
    [[nodiscard]] std::uint64_t kept_bytes() const {
        return queue_.has_vanished() ? 0 : queue_.kept_bytes();
    }
    /// For after deliver(): bytes that were written there.
    [[nodiscard]] std::uint64_t delivered_bytes() const { return delivered_bytes_; }

  private:
    static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
    /// Marks are kept so far apart, so that they take less than what they mark.
    static constexpr std::size_t kMarkSpacing = std::size_t{4} << 10;
    /// A second's output of the busiest sampling.
    static constexpr std::uint64_t kMaxWaitingBytes = std::uint64_t{16} << 20;

    OutputFile(const std::string& path, OpenedOutput opened, WriteQueue::Begin begin);
    void append_slowly(std::string_view text);
    void hand_over(std::size_t bytes);
    [[nodiscard]] std::size_t count_whole() const;

    std::string path_;
    UniqueFd shared_;  // what was kept in spool_ goes to
    UniqueFd spool_;
    UniqueFd folder_;
    std::string name_;  // in the folder
    WriteQueue queue_;
    std::unique_ptr<char[]> buffer_;
    std::size_t used_ = 0;
    RecordEnds record_ends_ = RecordEnds::kLines;
    std::vector<std::size_t> marks_;  // in buffer_; the last one is where the last record ends
    std::uint64_t appended_bytes_ = 0;
    std::uint64_t delivered_bytes_ = 0;
    bool created_ = false;
    bool written_ = false;
    bool is_discarded_ = false;
};

}  // namespace echion::output
