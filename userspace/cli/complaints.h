#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <utility>

#include "console/message.h"

namespace echion::cli {

/// What could not be sampled, a line each. A program may make any number of agents at fault, and
/// nobody reads more than some: the others are only counted.
class Complaints {
  public:
    template <typename... Parts>
    void tell(fmt::format_string<Parts...> format, Parts&&... parts) {
        if (++count_ <= kMaxLines) {
            say(format, std::forward<Parts>(parts)...);
        } else if (count_ == kMaxLines + 1) {
            say("and so on: no more of these are told");
        }
    }
    /// Told or not.
    [[nodiscard]] std::uint64_t count() const { return count_; }

  private:
    static constexpr std::uint64_t kMaxLines = 100;

    std::uint64_t count_ = 0;
};

}  // namespace echion::cli
