#pragma once

#include <cstdint>
#include <tl/expected.hpp>

namespace echion {

/// Why an operation failed. The sampling path counts errors by kind; the command-line program
/// turns them into one line for the user. Values are stable within one build only.
enum class ErrorKind : std::uint8_t {
    kSystem,              ///< A system call failed; `system_errno` says how.
    kUnreadable,          ///< Target memory that is not mapped, or that the reader may not read.
    kInvalid,             ///< Target memory was read but does not hold what it should.
    kBoundExceeded,       ///< A walk or a size went over its limit.
    kCycle,               ///< A linked structure came back to where it had been.
    kTorn,                ///< The target changed while it was being copied.
    kNotPython,           ///< No CPython runtime in the process.
    kUnsupportedVersion,  ///< A CPython version or build without a layout.
    kNotReady,            ///< The runtime exists but is not initialised, or is being finalised.
    kNoSpace,             ///< A fixed-size table or buffer is full.
    kProtocol,            ///< The other side of a channel or stream broke its rules.
    kRefused,             ///< A rule or permission forbids it.
};

/// A failure, cheap to copy and to return. `what` points to a string literal (static storage) that
/// names the operation, never to heap memory.
struct Error {
    ErrorKind kind;
    int system_errno = 0;
    const char* what = "";
};

template <typename T>
using Result = tl::expected<T, Error>;

using Status = Result<void>;

/// Shorthand for the failing return of a function that returns Result or Status.
[[nodiscard]] inline tl::unexpected<Error> fail(ErrorKind kind, const char* what,
                                                int system_errno = 0) {
    return tl::unexpected<Error>(Error{kind, system_errno, what});
}

}  // namespace echion
