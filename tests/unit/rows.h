#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "cpython/layout.h"

namespace echion::test {

/// Tests run for each row are given a number: the minor version, and of a free-threaded build so
/// much more.
constexpr int kFreeThreaded = 100;

inline const cpython::Layout& row_of(int number) {
    const cpython::Version version{3, static_cast<std::uint8_t>(number % kFreeThreaded), 0};
    return number < kFreeThreaded ? *cpython::find_layout(version)
                                  : *cpython::find_free_threaded_layout(version);
}

inline std::string name_of_row(const testing::TestParamInfo<int>& number) {
    return std::to_string(number.param % kFreeThreaded) + (number.param < kFreeThreaded ? "" : "t");
}

}  // namespace echion::test
