#include "output/gzip_stream.h"

#include <array>
#include <new>

namespace echion::output {
namespace {

constexpr int kGzipWindowBits = 15 + 16;  // 16: a gzip header instead of zlib's
constexpr int kMemoryLevel = 8;           // zlib's own default
constexpr unsigned char kUnix = 3;

/// What zlib takes in one call: its counts have 32 bits.
constexpr std::size_t kMaxPartBytes = std::size_t{1} << 30;
/// Header, trailer, and the marks of a flush.
constexpr std::size_t kFrameBytes = 64;
/// What cannot be compressed is stored, with 5 bytes more for each block; zlib.h, deflateBound().
constexpr std::size_t kStoredShare = 1024;

}  // namespace

GzipStream::GzipStream(OutputFile& file) : file_(file) {
    if (deflateInit2(&stream_, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kGzipWindowBits, kMemoryLevel,
                     Z_DEFAULT_STRATEGY) != Z_OK) {
        throw std::bad_alloc();
    }
    header_.os = kUnix;
    header_.comment = reinterpret_cast<Bytef*>(comment_.data());
    deflateSetHeader(&stream_, &header_);
}

GzipStream::~GzipStream() { deflateEnd(&stream_); }

void GzipStream::compress(std::string_view plain, int mode) {
    // zlib.h asks for what is not const, and does not change it.
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
    stream_.avail_in = static_cast<uInt>(plain.size());
    std::array<char, std::size_t{16} << 10> part;
    do {
        stream_.next_out = reinterpret_cast<Bytef*>(part.data());
        stream_.avail_out = static_cast<uInt>(part.size());
        deflate(&stream_, mode);
        file_.append({part.data(), part.size() - stream_.avail_out});
    } while (stream_.avail_out == 0);
}

void GzipStream::append(std::string_view plain) {
    unflushed_bytes_ += plain.size();
    for (std::size_t at = 0; at < plain.size(); at += kMaxPartBytes) {
        compress(plain.substr(at, kMaxPartBytes), Z_NO_FLUSH);
    }
}

void GzipStream::flush() {
    if (unflushed_bytes_ != 0) {
        compress({}, Z_SYNC_FLUSH);
        unflushed_bytes_ = 0;
        file_.mark_end();
    }
}

void GzipStream::finish() {
    compress({}, Z_FINISH);
    unflushed_bytes_ = 0;
    file_.mark_end();
}

std::size_t GzipStream::bound(std::size_t plain_bytes) const {
    const std::size_t all = unflushed_bytes_ + plain_bytes;
    return all + all / kStoredShare + kFrameBytes;
}

}  // namespace echion::output
