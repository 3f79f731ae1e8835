// The way of a hostile process's memory to a terminal and into a JSON document: all threads listed,
// their stacks copied, named and written. The input writes into a sane image.
//
//      input:  u8 version, then patches (fuzz_support.h)

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "cpython/layout.h"
#include "fuzz_support.h"
#include "process_image.h"
#include "report/json_report.h"
#include "report/text_report.h"

namespace {

using namespace echion;
using fuzz::require;

constexpr std::size_t kMaxThreads = 16;
constexpr std::size_t kMaxFrames = 32;

bool has_control_characters(std::string_view text) {
    return std::any_of(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) < ' ' && c != '\n') || c == '\x7f';
    });
}

/// Strings end, brackets pair: what a parser needs to stay in step.
bool is_balanced_json(std::string_view text) {
    std::string open;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) {
            i += c == '\\' ? 1 : 0;
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            open += c;
        } else if (c == '}' || c == ']') {
            if (open.empty() || (open.back() == '{') != (c == '}')) {
                return false;
            }
            open.pop_back();
        }
    }
    return open.empty() && !in_string;
}

template <typename Write>
std::string collect(Write&& write) {
    std::string text;
    std::array<char, 256> buffer;
    const auto append = [&text](std::string_view part) { text += part; };
    report::TextSink sink(buffer, append);
    write(sink);
    sink.flush();
    return text;
}

report::ProcessReport& report_of(const cpython::Layout& row) {
    static std::map<const cpython::Layout*, std::optional<report::ProcessReport>> reports;
    auto& one = reports[&row];
    if (!one) {
        capture::ProcessCapture::Limits limits;
        limits.max_threads = kMaxThreads;
        limits.max_frames = kMaxFrames;
        limits.follow = false;
        auto made = report::ProcessReport::make(fuzz::process_image_of(row).view, limits);
        require(made.has_value());
        one.emplace(std::move(*made));
    }
    return *one;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const cpython::Layout& row = fuzz::pick_row(data[0]);
    const fuzz::ProcessImage& sane = fuzz::process_image_of(row);
    std::vector<std::uint8_t> image = sane.bytes;
    fuzz::Input patches(data + 1, size - 1);
    fuzz::apply_patches(image, fuzz::kImageBase, patches);
    image.resize((image.size() + kPageBytes - 1) / kPageBytes * kPageBytes);
    fuzz::ImageReader reader(fuzz::kImageBase, image);

    report::ProcessReport& report = report_of(row);
    const report::ReportHeader header{1, 1, "app\x1b]0;", sane.view.version};
    SameCpu same_cpu;
    const std::string text = collect([&](report::TextSink& sink) {
        report::TextReport writer(sink, report::Palette::none());
        (void)report.write(reader, same_cpu, 0, header, writer);
    });
    const std::string json = collect([&](report::TextSink& sink) {
        report::JsonReport writer(sink);
        (void)report.write(reader, same_cpu, 0, header, writer);
    });
    require(fuzz::is_utf8(text) && !has_control_characters(text));
    require(fuzz::is_utf8(json) && !has_control_characters(json) && is_balanced_json(json));
    require(report.capture().threads().size() <= kMaxThreads);
    if (size == 1) {
        require(text.find("main (/srv/app.py:1") != std::string::npos);
        require(text.find("worker\\x1b[2J") != std::string::npos);
    }
    return 0;
}
