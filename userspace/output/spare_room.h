#pragma once

#include <cstddef>

namespace echion::output {

/// Room that is no longer used is given back above this.
constexpr std::size_t kMaxSpareBytes = std::size_t{64} << 10;

/// Gives back most of what a string or vector grew to, once it is much smaller again.
template <typename Container>
void give_back(Container& container) {
    const std::size_t spare = container.capacity() - container.size();
    if (spare * sizeof(container[0]) > kMaxSpareBytes && spare > 3 * container.size()) {
        container.shrink_to_fit();
    }
}

}  // namespace echion::output
