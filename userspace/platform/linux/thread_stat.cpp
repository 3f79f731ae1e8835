#include "platform/thread_stat.h"

#include <time.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "platform/linux/proc_file.h"

namespace echion {
namespace {

// Places of the fields behind the name, counted from the state (proc(5) counts it as the third).
constexpr int kUserTicks = 11;
constexpr int kSystemTicks = 12;
constexpr int kProcessor = 36;

// CONFIG_HZ=100: the longest there is.
constexpr std::int64_t kLongestTickNs = 10'000'000;

template <typename T>
bool parse_field(std::string_view word, T& value) {
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    return error == std::errc() && end == word.data() + word.size();
}

}  // namespace

Result<ThreadStat> parse_thread_stat(std::string_view text) {
    // 4711 (python3 (main)) S 1 4711 4711 0 -1 ...
    const std::size_t open = text.find('(');
    const std::size_t close = text.rfind(')');
    if (open == std::string_view::npos || close == std::string_view::npos || close < open) {
        return fail(ErrorKind::kInvalid, "a thread's stat without a name");
    }
    ThreadStat stat;
    const std::string_view name = text.substr(open + 1, close - open - 1);
    std::memcpy(stat.name, name.data(), std::min(name.size(), sizeof(stat.name) - 1));
    std::string_view rest = text.substr(close + 1);
    std::int64_t user_ticks = 0;
    std::int64_t system_ticks = 0;
    int found = 0;
    for (int field = 0; field <= kProcessor && !rest.empty(); ++field) {
        rest.remove_prefix(std::min(rest.find_first_not_of(" \n"), rest.size()));
        const std::string_view word = rest.substr(0, rest.find_first_of(" \n"));
        rest.remove_prefix(word.size());
        if (field == 0 && word.size() == 1) {
            stat.state = word.front();
            ++found;
        } else if (field == kUserTicks) {
            found += parse_field(word, user_ticks);
        } else if (field == kSystemTicks) {
            found += parse_field(word, system_ticks);
        } else if (field == kProcessor) {
            found += parse_field(word, stat.cpu);
        }
    }
    if (found != 4) {
        return fail(ErrorKind::kInvalid, "a thread's stat that lacks fields");
    }
    stat.cpu_ticks = user_ticks + system_ticks;
    return stat;
}

Result<ThreadStat> read_thread_stat(pid_t pid, pid_t tid) {
    return parse_task_file<1024>(pid, tid, "stat", parse_thread_stat);
}

Result<ThreadRun> parse_thread_run(std::string_view text) {
    // 1200292 160919 2
    ThreadRun run;
    for (std::int64_t* value : {&run.run_ns, &run.wait_ns, &run.slices}) {
        text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
        if (error != std::errc() || *value < 0) {
            return fail(ErrorKind::kInvalid, "a thread's run time that cannot be parsed");
        }
        text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    }
    if (run.run_ns == 0) {
        return fail(ErrorKind::kNotReady, "the kernel does not count this thread's time");
    }
    return run;
}

Result<ThreadRun> read_thread_run(pid_t pid, pid_t tid) {
    return parse_task_file<96>(pid, tid, "schedstat", parse_thread_run);
}

std::int64_t scheduler_tick_ns() {
    // The coarse clocks go on with the tick (kernel/time/posix-timers.c, KTIME_LOW_RES).
    timespec tick{};
    if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick) != 0 || tick.tv_sec != 0 || tick.tv_nsec <= 0) {
        return kLongestTickNs;
    }
    return std::min<std::int64_t>(tick.tv_nsec, kLongestTickNs);
}

}  // namespace echion
