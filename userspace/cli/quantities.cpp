#include "cli/quantities.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>

namespace echion::cli {

std::optional<std::uint64_t> parse_duration_ns(std::string_view text,
                                               std::uint64_t default_unit_ns) {
    const std::size_t digits = text.find_first_not_of("0123456789.");
    const std::string number(text.substr(0, digits));
    const std::string_view unit = digits == text.npos ? "" : text.substr(digits);
    double unit_ns = 0;
    if (unit.empty()) {
        unit_ns = static_cast<double>(default_unit_ns);
    } else if (unit == "us" || unit == "µs") {
        unit_ns = 1e3;
    } else if (unit == "ms") {
        unit_ns = 1e6;
    } else if (unit == "s") {
        unit_ns = 1e9;
    } else if (unit == "m" || unit == "min") {
        unit_ns = 60e9;
    } else if (unit == "h") {
        unit_ns = 3600e9;
    } else if (unit == "d") {
        unit_ns = 24 * 3600e9;
    } else {
        return std::nullopt;
    }
    double value = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc() || end != number.data() + number.size()) {
        return std::nullopt;
    }
    const double ns = std::round(value * unit_ns);
    if (!(ns < static_cast<double>(std::numeric_limits<std::int64_t>::max()))) {
        return std::nullopt;
    }
    return static_cast<std::uint64_t>(ns);
}

std::optional<std::uint64_t> parse_size_bytes(std::string_view text) {
    const std::size_t digits = text.find_first_not_of("0123456789.");
    const std::string number(text.substr(0, digits));
    std::string lower(digits == text.npos ? "" : text.substr(digits));
    for (char& c : lower) {
        c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
    std::string_view unit = lower;
    int shift = 0;
    if (!unit.empty() && unit != "b") {
        const std::size_t power = std::string_view("kmgt").find(unit[0]);
        if (power == std::string_view::npos) {
            return std::nullopt;
        }
        shift = 10 * (static_cast<int>(power) + 1);
        unit.remove_prefix(1);
    }
    double value = 0;
    const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
    if (error != std::errc() || end != number.data() + number.size() ||
        !(unit.empty() || unit == "b" || (shift != 0 && unit == "ib"))) {
        return std::nullopt;
    }
    const double bytes = std::round(std::ldexp(value, shift));
    if (!(bytes < static_cast<double>(std::numeric_limits<std::int64_t>::max()))) {
        return std::nullopt;
    }
    return static_cast<std::uint64_t>(bytes);
}

std::string format_size(std::uint64_t bytes) {
    constexpr std::string_view kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) {
        value /= 1024;
    }
    return fmt::format("{:.4g} {}", value, kUnits[unit]);
}

}  // namespace echion::cli
