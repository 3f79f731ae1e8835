#pragma once

#include <zlib.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "output/output_file.h"

namespace echion::output {

/// The comment in the header of each gzip file of this program's (RFC 1952, 2.3).
constexpr std::string_view kGzipComment = "echion profile";

/// Compresses into a file as one gzip member. One member only, as some readers stop at the end of
/// the first one.
class GzipStream {
  public:
    /// `file` must live longer.
    explicit GzipStream(OutputFile& file);
    ~GzipStream();
    GzipStream(const GzipStream&) = delete;
    GzipStream& operator=(const GzipStream&) = delete;

    void append(std::string_view plain);
    /// Has all that was appended put into the file, as a whole record. Whoever unpacks the file
    /// gets all of it, though the file's end is missing still. Nothing if nothing was appended
    /// since.
    void flush();
    /// The end of the file. Once.
    void finish();
    /// The most bytes that the file will grow by, if so many more are appended and then flushed.
    [[nodiscard]] std::size_t bound(std::size_t plain_bytes) const;

  private:
    void compress(std::string_view plain, int mode);

    OutputFile& file_;
    // zlib reads these two when it writes the first bytes.
    std::string comment_{kGzipComment};
    gz_header header_{};
    z_stream stream_{};
    std::size_t unflushed_bytes_ = 0;
};

}  // namespace echion::output
