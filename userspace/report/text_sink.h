#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/function_ref.h"

namespace echion::report {

/// Collects text in a buffer of fixed size and hands it on whenever that is full. Allocates
/// nothing. One thread at a time.
class TextSink {
  public:
    /// Receives text, in order, each piece once. Must outlive the sink.
    using Flush = FunctionRef<void(std::string_view)>;

    /// `buffer` stays the caller's.
    TextSink(std::span<char> buffer, Flush flush) : buffer_(buffer), flush_(flush) {}
    TextSink(const TextSink&) = delete;
    TextSink& operator=(const TextSink&) = delete;
    ~TextSink() { flush(); }

    void put(char c);
    void put(std::string_view text);
    void put_number(std::int64_t value);
    /// Text of a foreign process, for a terminal: what is_unprintable() stands as an escape such as
    /// \x1b or \u202e. What is not UTF-8 becomes U+FFFD.
    void put_printable(std::string_view text);
    /// Text as a JSON string (RFC 8259) with its quotes, in UTF-8. What put_printable()
    /// escapes, is escaped; what is not UTF-8 becomes U+FFFD.
    void put_json(std::string_view text);

    /// Hands on what has been collected.
    void flush();

  private:
    void put_escape(std::uint32_t code_point, bool json);

    std::span<char> buffer_;
    Flush flush_;
    std::size_t used_ = 0;
};

/// Columns of a terminal that a code point takes up: 0, 1 or 2. An approximation of UAX #11 for
/// cutting lines; wrong for a few rare scripts. Pure.
int column_width(std::uint32_t code_point);

}  // namespace echion::report
