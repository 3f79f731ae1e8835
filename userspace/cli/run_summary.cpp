#include "cli/run_summary.h"

#include <signal.h>
#include <unistd.h>

#include <string>

#include "cli/quantities.h"
#include "console/message.h"
#include "output/output_file.h"
#include "stream/counters.h"

namespace echion::cli {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
/// A gap of less is in the figures only, as the start of a short program on a busy machine.
constexpr std::uint64_t kToldGapNs = 1'000 * kMs;
/// Less than this no ring feels.
constexpr std::uint64_t kToldStallNs = 500 * kMs;

}  // namespace

void RunSummary::tell_not_complete(const Error& error, std::uint64_t kept_bytes) const {
    const auto number = output::find_own_descriptor(run_.options.output);
    const int own = number.value_or(-1);
    const bool is_stream = own == STDOUT_FILENO || own == STDERR_FILENO;
    Error why = error;
    if (why.system_errno != 0 && why.what == output::kWriteFailed) {
        why.what = "";
    }
    say("the profile {}{} is not complete ({}): {} bytes written, {} lost", is_stream ? "on " : "",
        run_.profile.path(), describe(why), kept_bytes, run_.profile.appended_bytes() - kept_bytes);
}

/// Why there is not a single sample.
void RunSummary::tell_empty() const {
    std::string why = run_.options.attach_pid ? "sampling was ended before its first sample"
                                              : "Python ended before its first sample";
    if (run_.ending_signal != 0) {
        why = fmt::format("{} came before the first sample", name_signal(run_.ending_signal));
    }
    if (!run_.leaves_empty_file) {
        say("there is no profile: {}", why);
    } else if (run_.agents_seen != 0 && run_.complaints == 0) {
        say("the profile is empty: {}", why);
    }
}

/// What most of the profile lacks, whoever reads.
void RunSummary::tell_shortfalls() const {
    using stream::Counter;
    const ProcessFigures& totals = run_.profile.totals();
    const std::uint64_t samples = run_.profile.total(Counter::kSamples);
    if (totals.value_us == 0 && run_.complaints == 0 && run_.ending_signal != 0) {
        say("the profile is empty: {} came before the first sample",
            name_signal(run_.ending_signal));
    } else if (totals.value_us == 0 && run_.complaints == 0) {
        say("the profile has no samples: {}",
            run_.options.cpu ? "no thread used CPU time while it was sampled"
                             : "it was sampled for less than an interval (-i)");
    }
    const auto is_most = [](std::uint64_t part, std::uint64_t all) {
        return part > all / 2 && part != 0;
    };
    if (totals.lost_ns >= kToldGapNs && is_most(totals.lost_ns, totals.duration_ns)) {
        say("{:.1f} s of {:.1f} s were not sampled, as ticks were dropped: echion did not come to "
            "empty the ring, or its output did not keep up; use a longer interval (-i)",
            static_cast<double>(totals.lost_ns) / 1e9,
            static_cast<double>(totals.duration_ns) / 1e9);
    }
    if (totals.missed_us >= kToldGapNs / 1000 && is_most(totals.missed_us, totals.value_us)) {
        say("{:.1f} s of {:.1f} s are :MISSED:, as the sampler got no CPU, or Python used them "
            "before its first sample",
            static_cast<double>(totals.missed_us) / 1e6,
            static_cast<double>(totals.value_us) / 1e6);
    }
    const std::uint64_t invalid =
        run_.profile.total(Counter::kInvalid) + run_.profile.total(Counter::kTornMarked);
    if (is_most(invalid, samples)) {
        // Not "of so many": with -c a stack that used no CPU time is no sample.
        say("{} stacks could not be read whole (:INVALID:): memory of the program that cannot be "
            "read, or a damaged or unusual one",
            invalid);
    }
    if (const std::uint64_t full = run_.profile.total(Counter::kTableFull);
        is_most(full, samples)) {
        say("threads are missing: the sampler had no room for them (see ulimit -v of the program)");
    }
}

/// Of children that go on with their parent's program nothing is in the profile.
void RunSummary::tell_children() const {
    constexpr std::size_t kMaxTold = 8;
    if (run_.cut.children == 0) {
        return;
    }
    std::string pids;
    for (const pid_t pid : run_.children.list(kMaxTold)) {
        pids += fmt::format("{}{}", pids.empty() ? "" : ", ", pid);
    }
    const bool is_one = run_.cut.children == 1;
    say("{} forked child{} {} not sampled ({}{}): {} with echion -p PID{}", run_.cut.children,
        is_one ? "" : "ren", is_one ? "was" : "were", pids,
        run_.cut.children > kMaxTold ? ", ..." : "", is_one ? "sample it" : "sample one",
        run_.children.has_living() ? "" : " while it runs");
}

void RunSummary::tell_cuts() const {
    const output::ProfileWriter& writer = run_.profile.writer();
    if (writer.is_full()) {
        say("{} samples did not fit into {} (--max-output)", writer.records_cut(),
            format_size(run_.options.max_output_bytes));
    }
    if (writer.records_shortened() != 0) {
        say("{} lines were cut at the leaf, as their stacks' names were too long",
            writer.records_shortened());
    }
    if (run_.cut.output_stalled_ns >= kToldStallNs) {
        say("{} did not keep up for {:.1f} s in all: {} ticks were dropped meanwhile",
            run_.profile.path(), static_cast<double>(run_.cut.output_stalled_ns) / 1e9,
            run_.profile.total(stream::Counter::kRingFullTicks));
    }
    if (run_.cut.ring_bytes != 0) {
        say("{} bytes of samples were left when sampling was ended", run_.cut.ring_bytes);
    }
}

/// How much was sampled, and what of it is not right.
void RunSummary::tell_figures() const {
    std::string lacks;
    for (const stream::CounterInfo& info : stream::kCounters) {
        if (const std::uint64_t count = run_.profile.total(info.counter);
            info.is_defect && count != 0) {
            lacks += fmt::format("{} {} {}", lacks.empty() ? ";" : ",", count, info.name);
        }
    }
    say("{} samples in {:.2f} s of {} process{}, in {}{}",
        run_.profile.total(stream::Counter::kSamples),
        static_cast<double>(run_.profile.totals().duration_ns) / 1e9, run_.profile.processes(),
        run_.profile.processes() == 1 ? "" : "es", run_.profile.path(), lacks);
}

/// What the kernel refused during the run.
void RunSummary::tell_kernel() const {
    if (const std::uint64_t refused = run_.engine.threads_refused(); refused != 0) {
        say("{} threads are not in the kernel's table, which was full or had no memory: {}",
            refused,
            run_.options.cpu ? "their CPU time is missing" : "they were read anew at each tick");
    }
    if (const auto rate = run_.engine.lowered_rate()) {
        say("{}", rate->text);
    }
}

Outcome RunSummary::write(const Status& written) const {
    if (!written) {
        tell_not_complete(written.error(), run_.profile.kept_bytes());
        return Outcome::kNotWritten;
    }
    if (run_.profile.processes() == 0) {
        tell_empty();
        return run_.complaints == 0 ? Outcome::kGood : Outcome::kNotAllSampled;
    }
    if (run_.options.verbose || isatty(STDERR_FILENO) != 0) {
        tell_figures();
    }
    tell_shortfalls();
    tell_children();
    tell_cuts();
    tell_kernel();
    if (run_.options.verbose) {
        for (const stream::CounterInfo& info : stream::kCounters) {
            say("  {:<20} {:>12}  {}", info.name, run_.profile.total(info.counter),
                info.description);
        }
        for (const std::string& line : run_.engine.report()) {
            say("  {}", line);
        }
    }
    return run_.engine.refusals() == 0 ? Outcome::kGood : Outcome::kNotAllSampled;
}

}  // namespace echion::cli
