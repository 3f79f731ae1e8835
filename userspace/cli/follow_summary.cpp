#include "cli/follow_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "report/json_report.h"

namespace echion::cli {
namespace {

using report::TextSink;

// Stacks of one thread in the text; the rest is counted. JSON has them all.
constexpr std::size_t kMaxStacks = 40;

double to_seconds(std::int64_t ns) { return static_cast<double>(ns) / 1e9; }

/// `0.500 s on CPU, 0.100 s runnable, 0.400 s waiting`: a thread's time, or that in one of its
/// stacks.
std::string name_times(const FollowThread& thread, const SpentTime& spent) {
    if (!thread.has_counts()) {
        return fmt::format("{:.3f} s on CPU, {:.3f} s runnable or waiting",
                           to_seconds(spent.on_cpu_ns),
                           to_seconds(spent.seen_ns - spent.on_cpu_ns));
    }
    return fmt::format("{:.3f} s on CPU, {:.3f} s runnable, {:.3f} s waiting",
                       to_seconds(spent.on_cpu_ns), to_seconds(spent.runnable_ns),
                       to_seconds(spent.waiting_ns()));
}

/// The same as members of a JSON object.
std::string name_json_times(const FollowThread& thread, const SpentTime& spent) {
    if (!thread.has_counts()) {
        return fmt::format(R"("on_cpu_ns":{},"runnable_ns":null,"waiting_ns":null)",
                           spent.on_cpu_ns);
    }
    return fmt::format(R"("on_cpu_ns":{},"runnable_ns":{},"waiting_ns":{})", spent.on_cpu_ns,
                       spent.runnable_ns, spent.waiting_ns());
}

template <typename Write>
std::string collect(Write write) {
    std::string text;
    std::array<char, 4096> buffer;
    const auto keep = [&text](std::string_view part) { text += part; };
    {
        TextSink sink(buffer, keep);
        write(sink);
    }
    return text;
}

void put_thread(TextSink& sink, const report::Palette& palette, const FollowModel& model,
                const FollowThread& thread) {
    sink.put("\n    🧵 ");
    sink.put(palette.thread);
    sink.put_printable(thread.name);
    sink.put(palette.plain);
    sink.put(": ");
    sink.put(palette.detail);
    capture::CapturedThread identity = thread.captured;
    identity.kernel_state = '?';  // of the moment, like the part in the GIL
    identity.gil_role = capture::GilRole::kUnknown;
    identity.tid = identity.tid != 0 ? identity.tid : static_cast<pid_t>(identity.native_id);
    report::put_thread_details(sink, identity);
    sink.put(fmt::format(", {:.1f} % CPU", percent(thread.spent.on_cpu_ns, thread.spent.seen_ns)));
    if (!thread.is_present) {
        sink.put(", ended");
    }
    sink.put(palette.plain);
    sink.put(fmt::format("\n      {}\n", name_times(thread, thread.spent)));

    const RankedStacks ranked = rank_stacks(thread);
    std::int64_t shown_ns = 0;
    for (std::size_t i = 0; i < ranked.stacks.size() && i < kMaxStacks; ++i) {
        const FollowStack& stack = *ranked.stacks[i];
        shown_ns += stack.time_ns;
        sink.put("      ");
        sink.put(palette.title);
        sink.put(fmt::format("{:5.1f} %", percent(stack.time_ns, ranked.total_ns)));
        sink.put(palette.plain);
        sink.put(fmt::format("  {:.3f} s", to_seconds(stack.time_ns)));
        if (!model.counts_cpu()) {
            sink.put(fmt::format(": {}", name_times(thread, stack.spent)));
        }
        sink.put('\n');
        if (!stack.is_whole) {
            sink.put("        (not the whole stack)\n");
        }
        if (stack.frames.empty()) {
            sink.put("        (no Python frames)\n");
        }
        for (const FrameId id : stack.frames) {
            sink.put("        ");
            report::put_frame(sink, palette, model.frame(id).words());
            sink.put('\n');
        }
    }
    if (ranked.stacks.size() > kMaxStacks) {
        sink.put(fmt::format("      {:5.1f} %  in {} more stacks\n",
                             percent(ranked.total_ns - shown_ns, ranked.total_ns),
                             ranked.stacks.size() - kMaxStacks));
    }
    if (ranked.stacks.empty()) {
        sink.put(model.counts_cpu() ? "      (not on a CPU)\n" : "      (seen once only)\n");
    }
}

}  // namespace

RankedStacks rank_stacks(const FollowThread& thread) {
    RankedStacks ranked;
    for (const FollowStack& stack : thread.stacks) {
        if (stack.time_ns > 0) {
            ranked.stacks.push_back(&stack);
            ranked.total_ns += stack.time_ns;
        }
    }
    std::stable_sort(ranked.stacks.begin(), ranked.stacks.end(),
                     [](const auto* a, const auto* b) { return a->time_ns > b->time_ns; });
    return ranked;
}

std::string make_text_summary(const FollowModel& model, const report::ReportHeader& header,
                              const report::Palette& palette) {
    return collect([&](TextSink& sink) {
        sink.put(palette.title);
        report::put_process(sink, header);
        sink.put(palette.plain);
        sink.put(fmt::format(": {:.3f} s, {} samples, {} time\n", to_seconds(model.elapsed_ns()),
                             model.samples(), model.counts_cpu() ? "CPU" : "wall"));
        for (const FollowThread& thread : model.threads()) {
            put_thread(sink, palette, model, thread);
        }
        sink.put('\n');
    });
}

std::string make_json_summary(const FollowModel& model, const report::ReportHeader& header,
                              std::uint64_t interval_ns, FollowEnd end) {
    return collect([&](TextSink& sink) {
        sink.put('{');
        report::put_json_header(sink, "follow", header);
        const char* reason = end == FollowEnd::kTime     ? "time"
                             : end == FollowEnd::kSignal ? "signal"
                                                         : "process";
        sink.put(fmt::format(
            R"(,"mode":"{}","interval_ns":{},"duration_ns":{},"samples":{},"ended_by":"{}")",
            model.counts_cpu() ? "cpu" : "wall", interval_ns, model.elapsed_ns(), model.samples(),
            reason));
        sink.put(R"(,"threads":[)");
        bool is_first = true;
        for (const FollowThread& thread : model.threads()) {
            sink.put(is_first ? "{" : ",{");
            is_first = false;
            report::put_json_thread(sink, thread.captured, thread.name);
            sink.put(fmt::format(R"(,"ended":{},"seen_ns":{},"cpu_ns":{},{},"stacks":[)",
                                 !thread.is_present, thread.spent.seen_ns, thread.spent.on_cpu_ns,
                                 name_json_times(thread, thread.spent)));
            const RankedStacks ranked = rank_stacks(thread);
            for (std::size_t i = 0; i < ranked.stacks.size(); ++i) {
                const FollowStack& stack = *ranked.stacks[i];
                sink.put(fmt::format(
                    R"({}{{"share":{:.6f},"time_ns":{},{},"samples":{},"whole":{},"frames":[)",
                    i == 0 ? "" : ",", percent(stack.time_ns, ranked.total_ns) / 100, stack.time_ns,
                    name_json_times(thread, stack.spent), stack.samples, stack.is_whole));
                for (std::size_t frame = 0; frame < stack.frames.size(); ++frame) {
                    if (frame > 0) {
                        sink.put(',');
                    }
                    report::put_json_frame(sink, model.frame(stack.frames[frame]).words());
                }
                sink.put("]}");
            }
            sink.put("]}");
        }
        sink.put("]}\n");
    });
}

}  // namespace echion::cli
