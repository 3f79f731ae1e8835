#include "where/follow_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "report/json_report.h"

namespace echion::where {
namespace {

using report::JsonWriter;
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
void put_json_times(JsonWriter& json, const FollowThread& thread, const SpentTime& spent) {
    json.key("on_cpu_ns").number(spent.on_cpu_ns);
    if (thread.has_counts()) {
        json.key("runnable_ns").number(spent.runnable_ns);
        json.key("waiting_ns").number(spent.waiting_ns());
    } else {
        json.key("runnable_ns").null().key("waiting_ns").null();
    }
}

void put_json_stack(JsonWriter& json, const FollowModel& model, const FollowThread& thread,
                    const FollowStack& stack, double share) {
    json.begin_object();
    json.key("share").literal(fmt::format("{:.6f}", share));
    json.key("time_ns").number(stack.time_ns);
    put_json_times(json, thread, stack.spent);
    json.key("samples").number(static_cast<std::int64_t>(stack.samples));
    json.key("whole").boolean(stack.is_whole);
    json.key("frames").begin_array();
    for (const FrameId frame : stack.frames) {
        report::put_json_frame(json, model.frame(frame).words());
    }
    json.end_array().end_object();
}

void put_json_thread(JsonWriter& json, const FollowModel& model, const FollowThread& thread) {
    json.begin_object();
    report::put_json_thread(json, thread.captured, thread.name);
    json.key("ended").boolean(!thread.is_present);
    json.key("seen_ns").number(thread.spent.seen_ns);
    json.key("cpu_ns").number(thread.spent.on_cpu_ns);
    put_json_times(json, thread, thread.spent);
    json.key("stacks").begin_array();
    const RankedStacks ranked = rank_stacks(thread);
    for (const FollowStack* stack : ranked.stacks) {
        put_json_stack(json, model, thread, *stack, percent(stack->time_ns, ranked.total_ns) / 100);
    }
    json.end_array().end_object();
}

std::string_view name_end(FollowEnd end) {
    switch (end) {
        case FollowEnd::kTime:
            return "time";
        case FollowEnd::kSignal:
            return "signal";
        case FollowEnd::kProcess:
            break;
    }
    return "process";
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
        JsonWriter json(sink);
        json.begin_object();
        report::put_json_header(json, "follow", header);
        json.key("mode").string(model.counts_cpu() ? "cpu" : "wall");
        json.key("interval_ns").number(static_cast<std::int64_t>(interval_ns));
        json.key("duration_ns").number(model.elapsed_ns());
        json.key("samples").number(static_cast<std::int64_t>(model.samples()));
        json.key("ended_by").string(name_end(end));
        json.key("threads").begin_array();
        for (const FollowThread& thread : model.threads()) {
            put_json_thread(json, model, thread);
        }
        json.end_array().end_object();
        sink.put('\n');
    });
}

}  // namespace echion::where
