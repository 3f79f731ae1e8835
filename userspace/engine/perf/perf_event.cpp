#include "engine/perf/perf_event.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/clock.h"

namespace echion::perf {
namespace {

// Added to the kernel's header in 5.13; the place is fixed (include/uapi/linux/perf_event.h).
constexpr std::uint64_t kInheritThreadBit = std::uint64_t{1} << 35;

std::int64_t read_number(const char* path, std::int64_t fallback) {
    const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
    char text[32] = {};
    if (!file || ::read(file.get(), text, sizeof(text) - 1) <= 0) {
        return fallback;
    }
    char* end = nullptr;
    const long long value = std::strtoll(text, &end, 10);
    return end == text ? fallback : value;
}

perf_event_attr make_attributes(const TimerOptions& options) {
    perf_event_attr attributes{};
    attributes.size = sizeof(attributes);
    attributes.type = PERF_TYPE_SOFTWARE;
    attributes.config = PERF_COUNT_SW_CPU_CLOCK;
    attributes.sample_period = static_cast<std::uint64_t>(options.interval_ns);
    attributes.wakeup_events = 1;
    attributes.disabled = 1;
    attributes.exclude_kernel = options.user_only ? 1 : 0;
    attributes.exclude_hv = 1;
    return attributes;
}

// The flags of the attributes are a row of bits behind `read_format`; new ones have no name in old
// headers.
void set_flag(perf_event_attr& attributes, std::uint64_t bit) {
    auto* flags = reinterpret_cast<std::uint64_t*>(&attributes.read_format) + 1;
    *flags |= bit;
}

Result<UniqueFd> open_event(perf_event_attr& attributes, pid_t tid, int cpu) {
    const long fd = ::syscall(SYS_perf_event_open, &attributes, tid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0) {
        return fail(ErrorKind::kSystem, "perf_event_open", errno);
    }
    return UniqueFd(static_cast<int>(fd));
}

Status control(const UniqueFd& event, unsigned long request, unsigned long argument,
               const char* what) {
    if (::ioctl(event.get(), request, argument) != 0) {
        return fail(ErrorKind::kSystem, what, errno);
    }
    return {};
}

}  // namespace

Limits read_limits() {
    Limits limits;
    limits.paranoid =
        static_cast<int>(read_number("/proc/sys/kernel/perf_event_paranoid", limits.paranoid));
    limits.max_ticks_per_second =
        read_number("/proc/sys/kernel/perf_event_max_sample_rate", limits.max_ticks_per_second);
    return limits;
}

std::int64_t clamp_interval(std::int64_t interval_ns, const Limits& limits) {
    const std::int64_t rate = std::max<std::int64_t>(limits.max_ticks_per_second, 1);
    return std::max({interval_ns, kMinIntervalNs, (kNanosPerSecond + rate - 1) / rate});
}

Result<UniqueFd> open_cpu_timer(int cpu, const TimerOptions& options) {
    perf_event_attr attributes = make_attributes(options);
    return open_event(attributes, -1, cpu);
}

Result<UniqueFd> open_task_timer(pid_t tid, Inherit inherit, const TimerOptions& options) {
    perf_event_attr attributes = make_attributes(options);
    attributes.inherit = inherit == Inherit::kNothing ? 0 : 1;
    if (inherit != Inherit::kThreads) {
        return open_event(attributes, tid, -1);
    }
    perf_event_attr threads_only = attributes;
    set_flag(threads_only, kInheritThreadBit);
    auto event = open_event(threads_only, tid, -1);
    if (event || event.error().system_errno != EINVAL) {
        return event;
    }
    return open_event(attributes, tid, -1);
}

Status signal_thread(const UniqueFd& event, pid_t tid, int signal) {
    const f_owner_ex owner{F_OWNER_TID, tid};
    const int flags = ::fcntl(event.get(), F_GETFL);
    if (flags < 0 || ::fcntl(event.get(), F_SETSIG, signal) != 0 ||
        ::fcntl(event.get(), F_SETOWN_EX, &owner) != 0 ||
        ::fcntl(event.get(), F_SETFL, flags | O_ASYNC) != 0) {
        return fail(ErrorKind::kSystem, "direct the ticks at a thread", errno);
    }
    return {};
}

Status run_program(const UniqueFd& event, int program_fd) {
    return control(event, PERF_EVENT_IOC_SET_BPF, static_cast<unsigned long>(program_fd),
                   "attach the program to the event");
}

Result<std::uint64_t> read_running_ns(const UniqueFd& event) {
    std::uint64_t count = 0;  // the clock's own unit
    if (::read(event.get(), &count, sizeof(count)) != static_cast<ssize_t>(sizeof(count))) {
        return fail(ErrorKind::kSystem, "read the event's count", errno);
    }
    return count;
}

Status enable(const UniqueFd& event) {
    return control(event, PERF_EVENT_IOC_ENABLE, 0, "start the event");
}

Status disable(const UniqueFd& event) {
    return control(event, PERF_EVENT_IOC_DISABLE, 0, "stop the event");
}

Status set_interval(const UniqueFd& event, std::int64_t interval_ns) {
    std::uint64_t period = static_cast<std::uint64_t>(interval_ns);
    if (::ioctl(event.get(), PERF_EVENT_IOC_PERIOD, &period) != 0) {
        return fail(ErrorKind::kSystem, "change the event's period", errno);
    }
    return {};
}

}  // namespace echion::perf
