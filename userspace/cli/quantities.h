#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// Times and sizes as a user writes and reads them.
namespace echion::cli {

/// Parses a time such as `500`, `500us`, `1.5ms`, `2s`, `5m`, `1h`, `7d`; a bare number counts
/// `default_unit_ns`. Nothing when it is no such thing, negative, or beyond what 64 bits of
/// nanoseconds hold.
std::optional<std::uint64_t> parse_duration_ns(std::string_view text,
                                               std::uint64_t default_unit_ns);

/// Parses a size such as `500000`, `64K`, `1.5M`, `2G`, `2GB`, `2GiB`: powers of 1024. Nothing when
/// it is no such thing, or beyond what 63 bits hold.
std::optional<std::uint64_t> parse_size_bytes(std::string_view text);

/// The other way round, for messages: `1.5 GiB`.
std::string format_size(std::uint64_t bytes);

}  // namespace echion::cli
