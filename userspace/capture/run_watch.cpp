#include "capture/run_watch.h"

namespace echion::capture {

void RunWatch::look(std::int64_t now_ns, const ThreadRun& run) {
    if (verdict_ != Scheduling::kUnknown) {
        return;
    }
    if (!has_begun_ || run == first_) {
        first_ = run;
        unchanged_ns_ = now_ns;
        has_begun_ = true;
        return;
    }
    const std::int64_t waited_ns = run.wait_ns - first_.wait_ns;
    if (run.slices == first_.slices) {
        // It has not come onto a CPU since. If it has run, it was on one.
        verdict_ = run.run_ns != first_.run_ns ? Scheduling::kOnCpu : Scheduling::kRunnable;
    } else {
        // It came onto a CPU behind the last look. Either it had waited for that all the time, or
        // it had left a CPU behind that same look: then its wait is no longer than the time since.
        verdict_ = waited_ns > now_ns - unchanged_ns_ ? Scheduling::kRunnable : Scheduling::kOnCpu;
    }
}

}  // namespace echion::capture
