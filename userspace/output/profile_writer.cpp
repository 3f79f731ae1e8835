#include "output/profile_writer.h"

#include <algorithm>
#include <utility>

namespace echion::output {

void ProfileWriter::add_header(std::string_view key, std::string_view value) {
    if (std::ranges::none_of(header_, [key](const auto& line) { return line.first == key; })) {
        set_header(key, value);
    }
}

void ProfileWriter::set_header(std::string_view key, std::string_view value) {
    if (header_ended_) {
        return;
    }
    const auto known =
        std::ranges::find_if(header_, [key](const auto& line) { return line.first == key; });
    if (known != header_.end()) {
        known->second = value;
    } else {
        header_.emplace_back(key, value);
    }
}

void ProfileWriter::set_interval(std::uint64_t interval_ns) {
    interval_ns_ = header_ended_ ? interval_ns_ : interval_ns;
}

void ProfileWriter::end_header() {
    if (!std::exchange(header_ended_, true)) {
        write_header(header_);
    }
}

void ProfileWriter::add_footer(std::string_view key, std::string_view value) {
    end_header();
    write_footer(key, value);
}

bool ProfileWriter::fits(std::size_t bytes) const {
    const std::uint64_t used = file_.appended_bytes();
    return !is_full() && used <= limits_.output_bytes && bytes <= limits_.output_bytes - used;
}

bool ProfileWriter::has_room(std::size_t bytes, std::int64_t value) {
    if (fits(bytes)) {
        return true;
    }
    cut(value);
    return false;
}

void ProfileWriter::cut(std::int64_t value) {
    ++records_cut_;
    const std::uint64_t amount =
        value < 0 ? ~static_cast<std::uint64_t>(value) + 1 : static_cast<std::uint64_t>(value);
    value_cut_ += std::min(amount, ~std::uint64_t{0} - value_cut_);
}

}  // namespace echion::output
