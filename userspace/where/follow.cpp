#include "where/follow.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "base/clock.h"
#include "console/exit_status.h"
#include "console/message.h"
#include "isolation/stall_watch.h"
#include "platform/own_scheduling.h"
#include "platform/same_cpu.h"
#include "where/follow_model.h"
#include "where/follow_summary.h"
#include "where/follow_view.h"

namespace echion::where {
namespace {

// Names of threads and functions are read anew so often.
constexpr std::int64_t kNamesPeriodNs = 500'000'000;
constexpr std::int64_t kViewPeriodNs = 250'000'000;
// A process that can be read no more, though it has not ended, is given up after this: it runs
// another program by now.
constexpr std::int64_t kPatienceNs = 1'000'000'000;
// A thread that rests is asked once in so many samples whether it has work to do by now: one that
// waits for a CPU does not run either.
constexpr std::uint64_t kSamplesBetweenStates = 10;
// For a part of a sample that opens files as well. Longer than its budget.
constexpr std::int64_t kStalledPartNs = 2 * kReportLimits.time_ns;

/// Signals as something to wait for. Restores the mask at its end.
class EndSignals {
  public:
    EndSignals() {
        sigemptyset(&signals_);
        for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
            sigaddset(&signals_, signal);
        }
        sigprocmask(SIG_BLOCK, &signals_, &before_);
    }
    EndSignals(const EndSignals&) = delete;
    EndSignals& operator=(const EndSignals&) = delete;
    ~EndSignals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }

    /// Waits until `deadline_ns` of the monotonic clock; true as soon as a signal has come.
    bool wait_until(std::int64_t deadline_ns) {
        for (;;) {
            const timespec rest =
                make_timespec(std::max<std::int64_t>(deadline_ns - monotonic_ns(), 0));
            if (sigtimedwait(&signals_, nullptr, &rest) > 0) {
                return true;
            }
            if (errno != EINTR) {
                return false;
            }
        }
    }

  private:
    sigset_t signals_{};
    sigset_t before_{};
};

class Follower {
  public:
    Follower(const Request& request, Target& target, report::ProcessReport& report,
             StallGuard& guard)
        : request_(request),
          target_(target),
          report_(report),
          guard_(guard),
          model_(request.cpu, scheduler_tick_ns()) {
        same_cpu_.open(SameCpu::find_thread_area_offset());
    }

    int run(std::function<void()>& on_stall);

  private:
    Status sample(std::int64_t now_ns);
    void note_last_runs();
    bool has_rested(const capture::CapturedThread& captured);
    void add(capture::CapturedThread& captured);
    int write_summary();

    // What a thread's rest is judged by: noted before the stacks are read, so that the model is
    // left alone while the target may stall.
    struct LastRun {
        bool was_running = true;
        bool had_gil_last = false;
        bool is_lent = false;
        std::optional<ThreadRun> run;
    };

    const Request& request_;
    Target& target_;
    report::ProcessReport& report_;
    StallGuard& guard_;
    SameCpu same_cpu_;
    FollowModel model_;
    std::vector<FrameId> stack_;
    std::vector<std::optional<ThreadRun>> runs_;
    std::vector<LastRun> last_runs_;
    std::uint64_t cut_samples_ = 0;
    bool lacks_counts_ = false;
    FollowEnd end_ = FollowEnd::kTime;
    std::int64_t sampled_ns_ = kLongAgoNs;
    std::int64_t names_ns_ = kLongAgoNs;
};

int Follower::run(std::function<void()>& on_stall) {
    set_exact_wakeups();
    EndSignals signals;
    FollowView view(STDERR_FILENO, choose_palette(STDERR_FILENO));
    // Only while the guarded thread is inside a read: so the model is whole, and nobody's.
    on_stall = [&] {
        view.clear();
        if (model_.samples() != 0) {
            (void)write_summary();
        }
        print_message(explain_stall(target_.pid()));
    };
    const bool has_view = isatty(STDERR_FILENO) != 0 && !request_.json;
    const auto interval_ns = static_cast<std::int64_t>(request_.interval_ns);
    const std::int64_t begin_ns = monotonic_ns();
    const std::int64_t end_ns = begin_ns + static_cast<std::int64_t>(*request_.exposure_ns);
    std::int64_t deadline_ns = begin_ns;
    std::int64_t shown_ns = kLongAgoNs;
    for (;;) {
        const std::int64_t now_ns = monotonic_ns();
        const Status status = sample(now_ns);
        if (!status && model_.samples() == 0) {
            say("{}", target_.explain(status.error()));
            return kExitFailure;
        }
        if (!status && (!target_.is_alive() || now_ns - sampled_ns_ > kPatienceNs)) {
            end_ = FollowEnd::kProcess;
            break;
        }
        if (has_view && now_ns - shown_ns >= kViewPeriodNs) {
            shown_ns = now_ns;
            view.show(model_, target_.header(), end_ns - now_ns);
            model_.begin_recent();
        }
        const bool took_too_long = target_.budget().is_over() && monotonic_ns() >= end_ns;
        if (deadline_ns >= end_ns || took_too_long) {
            break;
        }
        // Those that have passed are left out; the time that a sample stands for is measured.
        const std::int64_t passed = (monotonic_ns() - deadline_ns) / interval_ns;
        deadline_ns = std::min(deadline_ns + (passed + 1) * interval_ns, end_ns);
        if (signals.wait_until(deadline_ns)) {
            end_ = FollowEnd::kSignal;
            (void)sample(monotonic_ns());
            break;
        }
    }
    view.clear();
    const int status = write_summary();
    if (cut_samples_ != 0) {
        say("{} samples are not complete: process {} holds more than Echion reads (a damaged or "
            "hostile process?)",
            cut_samples_, target_.pid());
    }
    if (lacks_counts_) {
        print_message(kLacksCounts);
    }
    if (end_ == FollowEnd::kProcess) {
        say("{}", target_.is_alive()
                      ? fmt::format("process {} does not run that Python any more", target_.pid())
                      : fmt::format("process {} has ended", target_.pid()));
    }
    return status;
}

bool Follower::has_rested(const capture::CapturedThread& captured) {
    const auto index = static_cast<std::size_t>(&captured - report_.capture().threads().data());
    runs_[index].reset();
    const LastRun& last = last_runs_[index];
    if (captured.tid != 0 && !last.is_lent) {
        if (const auto run = read_thread_run(target_.pid(), captured.tid)) {
            runs_[index] = *run;
        }
    }
    // Another thread may run with the state of one that rests: see CapturedThread::is_lent.
    if (captured.had_gil_last || last.had_gil_last || last.is_lent) {
        return false;
    }
    if (last.was_running || !last.run || runs_[index] != last.run) {
        return false;
    }
    if ((index + model_.samples()) % kSamplesBetweenStates != 0) {
        return true;
    }
    const auto stat = read_thread_stat(target_.pid(), captured.tid);
    return stat && stat->state != 'R';
}

void Follower::note_last_runs() {
    const auto threads = report_.capture().threads();
    runs_.resize(threads.size());
    last_runs_.assign(threads.size(), {});
    for (std::size_t i = 0; i < threads.size(); ++i) {
        if (const FollowThread* known = model_.find(threads[i])) {
            last_runs_[i] = {known->was_running, known->had_gil_last, known->is_lent, known->run};
        }
    }
}

Status Follower::sample(std::int64_t now_ns) {
    capture::ProcessCapture& capture = report_.capture();
    target_.begin_reading(kReportLimits);
    {
        const StallGuard::Section section(&guard_, kStalledPartNs);
        if (auto status = capture.list_threads(target_.reader(), target_.pid()); !status) {
            return status;
        }
    }
    model_.begin_sample(model_.samples() == 0 ? 0 : now_ns - sampled_ns_);
    sampled_ns_ = now_ns;
    if (now_ns - names_ns_ >= kNamesPeriodNs) {
        names_ns_ = now_ns;
        report_.read_names(target_.reader());
        report_.codes().clear();
    }
    note_last_runs();
    const std::size_t count = capture.threads().size();
    for (std::size_t from = 0; from < count && target_.budget().has_time();) {
        std::size_t end = from;
        {
            const StallGuard::Section section(&guard_, kStalledPartNs);
            end =
                capture.read_stacks(target_.reader(), same_cpu_, from,
                                    [this](const auto& captured) { return !has_rested(captured); });
        }
        for (; from < end; ++from) {
            add(capture.threads()[from]);
        }
    }
    cut_samples_ += target_.budget().is_over();
    lacks_counts_ = lacks_counts_ || capture.lacks_counts();
    // Between samples nobody has to share a CPU with us.
    same_cpu_.release();
    return {};
}

void Follower::add(capture::CapturedThread& captured) {
    FollowThread* thread = captured.is_gone ? nullptr : model_.find(captured);
    if (thread == nullptr) {
        return;
    }
    if (thread->name.empty()) {
        // A thread that has come since the names were read.
        report_.read_names(target_.reader());
    }
    const auto index = static_cast<std::size_t>(&captured - report_.capture().threads().data());
    if (thread->is_lent) {
        captured.lend();
    }
    thread->name = report_.find_name(captured);
    if (captured.is_skipped) {
        model_.add(*thread, captured, runs_[index], nullptr);
        return;
    }
    const auto frames = report_.capture().frames(captured);
    report_.codes().verify(target_.reader(), frames);
    stack_.clear();
    for (std::size_t i = frames.size(); i-- > 0;) {
        if (!target_.budget().has_time()) {
            return;
        }
        const capture::SourceFrame frame = report_.codes().describe(target_.reader(), frames[i]);
        if (frame.is_trampoline) {
            continue;
        }
        if (const auto id = model_.number(frame)) {
            stack_.push_back(*id);
        }
    }
    model_.add(*thread, captured, runs_[index], &stack_);
}

int Follower::write_summary() {
    const bool json = request_.json;
    const std::string text =
        json ? make_json_summary(model_, target_.header(), request_.interval_ns, end_)
             : make_text_summary(model_, target_.header(), choose_palette(STDERR_FILENO));
    if (!write_text(json ? STDOUT_FILENO : STDERR_FILENO, text)) {
        say("the summary could not be written: {}", strerror(errno));
        return kExitFailure;
    }
    return 0;
}

}  // namespace

int follow(const Request& request, Target& target, report::ProcessReport& report, StallGuard& guard,
           std::function<void()>& on_stall) {
    return Follower(request, target, report, guard).run(on_stall);
}

}  // namespace echion::where
