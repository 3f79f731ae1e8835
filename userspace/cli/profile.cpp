#include "cli/profile.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "base/clock.h"
#include "engine/engines.h"

namespace echion::cli {
namespace {

constexpr char kSamplerThread[] = "echion.core.sampler";

/// Sums of what hostile processes claim must not wrap.
std::uint64_t add_capped(std::uint64_t a, std::uint64_t b) {
    return b > std::numeric_limits<std::uint64_t>::max() - a
               ? std::numeric_limits<std::uint64_t>::max()
               : a + b;
}

/// Intervals below a microsecond or between two of them keep their fraction.
std::string format_micros(std::uint64_t ns) {
    std::string text = std::to_string(ns / 1000);
    if (ns % 1000 != 0) {
        std::string fraction = std::to_string(1000 + ns % 1000).substr(1);
        fraction.erase(fraction.find_last_not_of('0') + 1);
        text += "." + fraction;
    }
    return text;
}

void add_once(std::vector<std::string>& list, std::string_view text) {
    if (std::ranges::find(list, text) == list.end()) {
        list.emplace_back(text);
    }
}

std::string join(const std::vector<std::string>& list) {
    std::string text;
    for (const std::string& one : list) {
        text += (text.empty() ? "" : ", ") + one;
    }
    return text;
}

}  // namespace

Profile::Profile(output::OutputFile file, const ProfileSettings& settings)
    : file_(std::move(file)),
      writer_(output::make_writer(
          settings.format, file_,
          {settings.metric, static_cast<std::uint64_t>(read_clock_ns(CLOCK_REALTIME))},
          settings.limits)),
      settings_(settings) {
    writer_->add_header("mode", settings.metric == model::Metric::kCpuTime ? "cpu" : "wall");
    writer_->add_header("interval", format_micros(settings.interval_ns));
    writer_->set_interval(settings.interval_ns);
    writer_->add_header("sampler", "echion " ECHION_VERSION);
    writer_->add_header("engine", engine::own_clock().profile_name);
}

void Profile::note_ticks(std::string_view engine, std::uint64_t interval_ns) {
    add_once(engines_, engine);
    add_once(intervals_, format_micros(interval_ns));
    if (intervals_.size() == 1) {
        writer_->set_interval(interval_ns);
    }
    writer_->set_header("engine", join(engines_));
    writer_->set_header("interval", intervals_.front());
}

void Profile::finish_process(pid_t pid, const ProcessFigures& figures, std::uint64_t start_ticks) {
    if (start_ticks == 0 || std::exchange(start_ticks_[pid], start_ticks) != start_ticks) {
        ++processes_;
    }
    totals_.duration_ns = std::max(totals_.duration_ns, figures.duration_ns);
    totals_.lost_ns = add_capped(totals_.lost_ns, figures.lost_ns);
    totals_.missed_us = add_capped(totals_.missed_us, figures.missed_us);
    totals_.on_cpu_ns = add_capped(totals_.on_cpu_ns, figures.on_cpu_ns);
    totals_.runnable_ns = add_capped(totals_.runnable_ns, figures.runnable_ns);
    totals_.value_us = add_capped(totals_.value_us, figures.value_us);
    totals_.overcounted_ns = add_capped(totals_.overcounted_ns, figures.overcounted_ns);
    totals_.lines_skipped = add_capped(totals_.lines_skipped, figures.lines_skipped);
    for (std::size_t i = 0; i < totals_.counters.size(); ++i) {
        totals_.counters[i] = add_capped(totals_.counters[i], figures.counters[i]);
    }
    const std::uint64_t cpu_us =
        figures.counters[static_cast<std::size_t>(stream::Counter::kSamplerCpuNs)] / 1000;
    if (!settings_.stealth && cpu_us != 0 &&
        cpu_us <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        const auto sampler = writer_->add_process(pid);
        sampler->thread(0, 0, 0, kSamplerThread);
        sampler->sample(0, static_cast<std::int64_t>(cpu_us), std::nullopt);
    }
}

Status Profile::finish(bool even_empty, const KernelFigures& kernel, const CutFigures& cut) {
    begin_finish(even_empty, kernel, cut);
    return has_ended() ? status() : file_.close();
}

void Profile::begin_finish(bool even_empty, const KernelFigures& kernel, const CutFigures& cut) {
    if (processes_ == 0 && !even_empty) {
        file_.discard();
        return;
    }
    writer_->add_footer("duration", std::to_string(totals_.duration_ns / 1000));
    writer_->add_footer("processes", std::to_string(processes_));
    for (const auto& [key, values] :
         {std::pair{"engines", &engines_}, std::pair{"intervals", &intervals_}}) {
        if (values->size() > 1) {
            writer_->add_footer(key, join(*values));
        }
    }
    if (totals_.on_cpu_ns != 0) {
        const std::uint64_t on_cpu_us = totals_.on_cpu_ns / 1000;
        const std::uint64_t runnable_us = totals_.runnable_ns / 1000;
        const std::uint64_t waiting_us =
            totals_.value_us - std::min(totals_.value_us, add_capped(on_cpu_us, runnable_us));
        writer_->add_footer("on_cpu", std::to_string(on_cpu_us));
        writer_->add_footer("runnable", std::to_string(runnable_us));
        writer_->add_footer("waiting", std::to_string(waiting_us));
    }
    writer_->add_footer("lost_ns", std::to_string(totals_.lost_ns));
    writer_->add_footer("missed_us", std::to_string(totals_.missed_us));
    if (settings_.metric == model::Metric::kCpuTime) {
        writer_->add_footer("overcounted_ns", std::to_string(totals_.overcounted_ns));
    }
    writer_->add_footer("threads_refused", std::to_string(kernel.threads_refused));
    if (kernel.lowered_rate != 0) {
        writer_->add_footer("lowered_tick_rate", std::to_string(kernel.lowered_rate));
    }
    for (const stream::CounterInfo& info : stream::kCounters) {
        writer_->add_footer(info.name, std::to_string(total(info.counter)));
    }
    if (writer_->is_full()) {
        writer_->add_footer("output_limit", std::to_string(settings_.limits.output_bytes));
        writer_->add_footer("lines_cut", std::to_string(writer_->records_cut()));
        writer_->add_footer("value_cut", std::to_string(writer_->value_cut()));
    }
    for (const auto& [key, value] :
         {std::pair{"lines_shortened", writer_->records_shortened()},
          std::pair{"lines_skipped", totals_.lines_skipped},
          std::pair{"processes_cut", cut.processes}, std::pair{"ring_bytes_cut", cut.ring_bytes},
          std::pair{"output_stalled_ns", cut.output_stalled_ns}}) {
        writer_->add_footer(key, std::to_string(value));
    }
    if (cut.children != 0) {
        writer_->add_footer("children_not_sampled", std::to_string(cut.children));
    }
    writer_->finish(totals_.duration_ns);
    file_.finish();
}

}  // namespace echion::cli
