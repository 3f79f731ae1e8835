#include "platform/own_program.h"

#include <unistd.h>

#include <array>
#include <climits>

namespace echion {

std::string find_own_program() {
    std::array<char, PATH_MAX> buffer;
    const ssize_t size = readlink("/proc/self/exe", buffer.data(), buffer.size());
    if (size <= 0 || static_cast<std::size_t>(size) == buffer.size()) {
        return {};
    }
    return {buffer.data(), static_cast<std::size_t>(size)};
}

}  // namespace echion
