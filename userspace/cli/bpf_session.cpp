#include "cli/bpf_session.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <future>
#include <map>

#include "base/clock.h"
#include "bpf/echion.skel.h"
#include "cli/first_ring.h"
#include "cli/tick_timers.h"
#include "platform/linux/cpu_state_map.h"
#include "platform/linux/perf_event.h"
#include "stream/control.h"

namespace echion::cli {
namespace {

// Signals that may wait for the sampler at a time. More than one, so that a tick during its work is
// followed up; few, so that a stopped target does not use up its user's quota of queued signals
// (RLIMIT_SIGPENDING).
constexpr std::uint32_t kMaxPendingTicks = 8;

// How long snapshots may gather before the sampler is woken for them. At the usual interval each
// tick wakes it; at 100 us one in ten does, which halves what a tick costs the target.
constexpr std::uint64_t kSignalGapNs = 900'000;

static_assert(sizeof(control::Arm::snapshot_layout) == sizeof(echion_snapshot_layout));

constexpr std::uint32_t stamp_entries(std::uint32_t thread_capacity) {
    return (thread_capacity + ECHION_STAMPS_PER_ENTRY - 1) / ECHION_STAMPS_PER_ENTRY;
}

struct SkeletonDeleter {
    void operator()(echion_bpf* skeleton) const { echion_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<echion_bpf, SkeletonDeleter>;

struct LinkDeleter {
    void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};

std::uint32_t own_pid_namespace() {
    struct stat status {};
    return ::stat("/proc/self/ns/pid", &status) == 0 ? static_cast<std::uint32_t>(status.st_ino)
                                                     : 0;
}

// One event for each thread of the target: as many descriptors as the system lets this process
// have. Kernels before 5.11 charge maps to the limit on locked memory.
void raise_limits() {
    raise_file_limit();
    const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
    ::setrlimit(RLIMIT_MEMLOCK, &unlimited);
}

bool has_helper(bpf_func_id helper) {
    return libbpf_probe_bpf_helper(BPF_PROG_TYPE_PERF_EVENT, helper, nullptr) == 1;
}

int size_maps(echion_bpf& skeleton, const BpfOptions& options, bool has_task_storage) {
    const std::uint32_t entries =
        1 + stamp_entries(options.thread_capacity) + options.thread_capacity;
    int status = bpf_map__set_max_entries(skeleton.maps.state, entries);
    status |= bpf_map__set_max_entries(skeleton.maps.ended_slots, options.thread_capacity);
    status |= bpf_map__set_autocreate(skeleton.maps.members, has_task_storage);
    if (!has_task_storage) {
        status |= bpf_map__set_max_entries(skeleton.maps.members_by_task, options.thread_capacity);
    }
    return status;
}

// Writes the table's first entry, then closes the map to every write from user space, for good:
// neither this process nor whoever receives the descriptor can change it or map it writable.
int seal_table(echion_bpf& skeleton, const BpfOptions& options) {
    union {
        echion_table table;
        std::uint8_t bytes[ECHION_ENTRY_BYTES];
    } entry{};
    entry.table.magic = ECHION_ABI_MAGIC;
    entry.table.version = ECHION_ABI_VERSION;
    entry.table.thread_capacity = options.thread_capacity;
    entry.table.first_stamp_entry = 1;
    entry.table.first_thread_entry = 1 + stamp_entries(options.thread_capacity);
    entry.table.snapshot_ring_bytes = options.snapshot_ring_bytes;
    const int fd = bpf_map__fd(skeleton.maps.state);
    const std::uint32_t first = 0;
    const int status = bpf_map_update_elem(fd, &first, &entry, BPF_ANY);
    return status != 0 ? status : bpf_map_freeze(fd);
}

int silent(libbpf_print_level, const char*, va_list) { return 0; }

}  // namespace

struct BpfSession::Impl {
    BpfOptions options;
    Skeleton skeleton;
    CpuStateMap states;
    // Those that this program added: it still knows their numbers when they have ended.
    std::map<pid_t, Target> added;
    std::map<Target, UniqueFd> rings;
    std::map<Target, TickTimers> timers;
    CpuBook book;
    std::map<Target, CpuBook::Holder> samplers;  // of targets whose ticks have been started
    bool has_wall_program = true;
    bool has_loop_helper = true;
    UniqueFd stats;
    UniqueFd first_event;

    [[nodiscard]] std::optional<echion_target_state> read_target(Target target) const {
        echion_target_state state{};
        const int fd = bpf_map__fd(skeleton->maps.target_states);
        if (bpf_map_lookup_elem(fd, &target, &state) != 0) {
            return std::nullopt;
        }
        return state;
    }

    [[nodiscard]] std::optional<Target> find_living(pid_t pid) const {
        const auto is_it = [pid](const echion_target_state& state) {
            return state.kernel_pid != 0 && state.pid == static_cast<std::uint32_t>(pid);
        };
        // All in one call; kernels before 5.6 are asked one by one.
        std::array<Target, ECHION_MAX_TARGETS> targets{};
        std::array<echion_target_state, ECHION_MAX_TARGETS> all{};
        std::uint32_t count = ECHION_MAX_TARGETS;
        Target next = 0;
        const int status = bpf_map_lookup_batch(bpf_map__fd(skeleton->maps.target_states), nullptr,
                                                &next, targets.data(), all.data(), &count, nullptr);
        const bool is_batch = status == 0 || status == -ENOENT;
        for (Target i = 0; i < (is_batch ? count : ECHION_MAX_TARGETS); ++i) {
            if (is_batch) {
                if (is_it(all[i])) {
                    return targets[i];
                }
            } else if (const auto state = read_target(i); state && is_it(*state)) {
                return i;
            }
        }
        return std::nullopt;
    }

    [[nodiscard]] bool lives(const CpuBook::Holder& thread) const {
        const auto state = states.read(thread.slot);
        if (!state) {
            return state.error().kind == ErrorKind::kTorn;  // it runs, and how
        }
        return !state->ended && state->generation == thread.generation;
    }

    [[nodiscard]] int write_config(Target target, const echion_target_config& config) const {
        return bpf_map_update_elem(bpf_map__fd(skeleton->maps.target_configs), &target, &config,
                                   BPF_ANY);
    }
};

BpfSession::BpfSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BpfSession::~BpfSession() = default;

bool bpf_is_built_in() { return true; }

tl::expected<std::unique_ptr<BpfSession>, Unavailable> BpfSession::open(const BpfOptions& options) {
    const Privileges privileges = read_privileges();
    const auto refuse = [&privileges](const char* what, int negative_errno) {
        return tl::unexpected(explain_bpf(what, -negative_errno, privileges));
    };
    if (options.thread_capacity < 1 || options.thread_capacity > ECHION_MAX_THREADS ||
        !std::has_single_bit(options.snapshot_ring_bytes) || options.snapshot_ring_bytes < 4096) {
        return refuse("size the BPF maps", -EINVAL);
    }
    // The first perf event of a machine makes its kernel wait, some 10 ms, until all CPUs know that
    // there are such (kernel/events/core.c, account_event): here is time for that.
    auto first_event =
        std::async([] { return perf::open_task_timer(0, perf::Inherit::kNothing, {}); });
    libbpf_set_print(silent);
    libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
    raise_limits();
    auto impl = std::make_unique<Impl>();
    impl->options = options;
    impl->skeleton.reset(echion_bpf__open());
    if (!impl->skeleton) {
        return refuse("open the BPF programs", -errno);
    }
    echion_bpf& skeleton = *impl->skeleton;
    const bool has_task_storage =
        !options.without_task_storage && has_helper(BPF_FUNC_task_storage_get);
    impl->has_wall_program = has_helper(BPF_FUNC_get_attach_cookie);
    impl->has_loop_helper = !options.without_loop_helper && has_helper(BPF_FUNC_loop);
    skeleton.rodata->thread_capacity = options.thread_capacity;
    skeleton.rodata->first_stamp_entry = 1;
    skeleton.rodata->first_thread_entry = 1 + stamp_entries(options.thread_capacity);
    skeleton.rodata->pid_namespace_inode = own_pid_namespace();
    skeleton.rodata->quarantine_ns = options.quarantine_ns;
    skeleton.rodata->has_task_storage = has_task_storage;
    skeleton.rodata->follow_children = options.follow_children;
    bpf_program__set_autoload(skeleton.progs.on_wall_tick, impl->has_wall_program);
    bpf_program__set_autoload(skeleton.progs.on_thread_tick, impl->has_loop_helper);
    bpf_program__set_autoload(skeleton.progs.on_thread_tick_unrolled, !impl->has_loop_helper);
    if (const int status = size_maps(skeleton, options, has_task_storage); status != 0) {
        return refuse("size the BPF maps", status);
    }
    FirstRing first_ring(skeleton.maps.snapshot_rings, ECHION_MAX_TARGETS,
                         options.snapshot_ring_bytes);
    if (const int status = echion_bpf__load(&skeleton); status != 0) {
        return refuse("load the BPF programs", status);
    }
    if (const int status = seal_table(skeleton, options); status != 0) {
        return refuse("seal the CPU state table", status);
    }
    auto states = CpuStateMap::open(bpf_map__fd(skeleton.maps.state));
    if (!states) {
        return refuse(states.error().what, -states.error().system_errno);
    }
    impl->states = std::move(*states);
    // The iterator runs when a target is added, and the ticks' programs are attached to its events.
    bpf_program__set_autoattach(skeleton.progs.enter_threads, false);
    if (const int status = echion_bpf__attach(&skeleton); status != 0) {
        return refuse("attach to the scheduler's tracepoints", status);
    }
    if (auto ring = first_ring.take()) {
        impl->rings.emplace(FirstRing::kTarget, std::move(ring));
    }
    if (auto event = first_event.get()) {
        impl->first_event = std::move(*event);
    }
    return std::unique_ptr<BpfSession>(new BpfSession(std::move(impl)));
}

Result<BpfSession::Target> BpfSession::add_target(pid_t pid) {
    if (const auto known = impl_->find_living(pid)) {
        impl_->added[pid] = *known;
        return *known;
    }
    if (const auto ended = find_target(pid)) {
        remove_target(*ended);  // another process that had this number
    }
    echion_bpf& skeleton = *impl_->skeleton;
    skeleton.bss->entering_pid = static_cast<std::uint32_t>(pid);
    // Kernels from 6.1 on visit only this process; older ones all, of which the program picks.
    bpf_iter_link_info info{};
    info.task.pid = static_cast<std::uint32_t>(pid);
    LIBBPF_OPTS(bpf_iter_attach_opts, only_this, .link_info = &info, .link_info_len = sizeof(info));
    std::unique_ptr<bpf_link, LinkDeleter> link(
        bpf_program__attach_iter(skeleton.progs.enter_threads, &only_this));
    if (!link) {
        if (errno == ESRCH) {
            return fail(ErrorKind::kSystem, "watch the process", ESRCH);
        }
        link.reset(bpf_program__attach_iter(skeleton.progs.enter_threads, nullptr));
    }
    if (!link) {
        return fail(ErrorKind::kSystem, "walk the target's threads", errno);
    }
    const UniqueFd walk(bpf_iter_create(bpf_link__fd(link.get())));
    if (!walk) {
        return fail(ErrorKind::kSystem, "walk the target's threads", errno);
    }
    char nothing[64];
    while (::read(walk.get(), nothing, sizeof(nothing)) > 0) {
    }
    skeleton.bss->entering_pid = 0;
    if (const auto added = impl_->find_living(pid)) {
        impl_->added[pid] = *added;
        if (const auto state = impl_->read_target(*added)) {
            impl_->book.begin(*added, state->target_pid, impl_->states);
        }
        return *added;
    }
    if (::kill(pid, 0) != 0 && errno == ESRCH) {
        return fail(ErrorKind::kSystem, "watch the process", ESRCH);
    }
    return fail(ErrorKind::kNoSpace, "watch the process: too many targets");
}

std::optional<BpfSession::Target> BpfSession::find_target(pid_t pid) const {
    if (const auto living = impl_->find_living(pid)) {
        return living;
    }
    const auto ended = impl_->added.find(pid);
    return ended == impl_->added.end() ? std::nullopt : std::optional<Target>(ended->second);
}

void BpfSession::remove_target(Target target) {
    const auto state = impl_->read_target(target);
    if (!state) {
        return;
    }
    stop_timer(target);
    std::erase_if(impl_->added, [target](const auto& entry) { return entry.second == target; });
    impl_->rings.erase(target);
    impl_->samplers.erase(target);
    impl_->book.forget(target);
    bpf_map_delete_elem(bpf_map__fd(impl_->skeleton->maps.snapshot_rings), &target);
    if (state->kernel_pid == 0) {
        return;
    }
    // If the process has ended, its number may be another target's by now: then the entry is not
    // this target's, and stays.
    const int targets = bpf_map__fd(impl_->skeleton->maps.targets);
    Target entered = 0;
    if (bpf_map_lookup_elem(targets, &state->kernel_pid, &entered) == 0 && entered == target) {
        bpf_map_delete_elem(targets, &state->kernel_pid);
    }
    const echion_target_state free_place{};
    bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.target_states), &target, &free_place,
                        BPF_ANY);
}

int BpfSession::state_fd() const { return bpf_map__fd(impl_->skeleton->maps.state); }

Result<int> BpfSession::snapshot_fd(Target target) {
    if (target >= ECHION_MAX_TARGETS) {
        return fail(ErrorKind::kInvalid, "make a snapshot ring: no such target");
    }
    if (const auto known = impl_->rings.find(target); known != impl_->rings.end()) {
        return known->second.get();
    }
    UniqueFd ring = make_snapshot_ring(impl_->options.snapshot_ring_bytes);
    if (!ring) {
        return fail(ErrorKind::kSystem, "make a snapshot ring", errno);
    }
    const int value = ring.get();
    if (bpf_map_update_elem(bpf_map__fd(impl_->skeleton->maps.snapshot_rings), &target, &value,
                            BPF_ANY) != 0) {
        return fail(ErrorKind::kSystem, "make a snapshot ring", errno);
    }
    return impl_->rings.emplace(target, std::move(ring)).first->second.get();
}

bool is_valid(const echion_snapshot_layout& layout) {
    const std::uint32_t frame_bytes = layout.frame_bytes;
    const auto fits = [frame_bytes](std::uint32_t offset, std::uint32_t size_bytes) {
        return offset + size_bytes <= frame_bytes;
    };
    const bool narrow = layout.pointer_mask == 0xffffffffU;
    const std::uint32_t pointer_bytes = narrow ? 4 : 8;
    const std::uint32_t instruction_bytes = layout.instruction_shift == 32 ? 4 : 8;
    const auto in_state = [&](std::uint32_t offset) {
        return offset + pointer_bytes <= layout.state_bytes;
    };
    const bool has_stack = layout.stack_chunk != ECHION_ABSENT;
    return (narrow || layout.pointer_mask == ~std::uint64_t{0}) &&
           layout.state_bytes <= ECHION_THREAD_STATE_BYTES && in_state(layout.head) &&
           (has_stack ? in_state(layout.stack_chunk) && in_state(layout.stack_top)
                      : layout.stack_top == ECHION_ABSENT) &&
           frame_bytes >= 16 && frame_bytes <= ECHION_FRAME_BYTES &&
           (layout.instruction_shift == 0 || layout.instruction_shift == 32) &&
           fits(layout.frame_previous, pointer_bytes) && fits(layout.frame_code, pointer_bytes) &&
           fits(layout.frame_instruction, instruction_bytes) && fits(layout.frame_owner, 1);
}

Result<TimerReport> BpfSession::start_timer(Target target, const TimerRequest& request) {
    const auto state = impl_->read_target(target);
    if (!state || state->kernel_pid == 0 || state->pid == 0) {
        return fail(ErrorKind::kSystem, "start the ticks: the target has ended", ESRCH);
    }
    if (request.signal < SIGRTMIN || request.signal > SIGRTMAX || request.interval_ns <= 0 ||
        (request.snapshot.thread_refs != 0 && !is_valid(request.snapshot))) {
        return fail(ErrorKind::kProtocol, "start the ticks: the agent's request is not valid");
    }
    const auto slot = impl_->states.find_slot(state->target_pid, request.sampler_tid, target);
    const auto sampler = slot ? impl_->states.read(*slot) : tl::unexpected(slot.error());
    if (!sampler) {
        return fail(ErrorKind::kProtocol,
                    "start the ticks: the sampler is not a thread of the target");
    }
    if (!may_signal(static_cast<pid_t>(state->pid))) {
        return fail(ErrorKind::kRefused, "start the ticks: the target is another user's", EPERM);
    }
    stop_timer(target);
    const bool snapshots = request.snapshot.thread_refs != 0 && snapshot_fd(target).has_value();
    echion_target_config config{};
    config.sampler_slot = *slot + 1;
    config.sampler_generation = sampler->generation;
    config.max_pending = kMaxPendingTicks;
    config.thread_ticks_signal = request.wall ? 0 : 1;
    config.signal_gap_ns = kSignalGapNs;
    if (snapshots) {
        config.snapshot = request.snapshot;
    }
    if (impl_->write_config(target, config) != 0) {
        return fail(ErrorKind::kSystem, "start the ticks: configure the programs", errno);
    }
    TickRequest ticks;
    ticks.pid = static_cast<pid_t>(state->pid);
    ticks.sampler_tid = static_cast<pid_t>(sampler->session_tid);
    ticks.signal = request.signal;
    ticks.interval_ns = perf::clamp_interval(request.interval_ns, perf::read_limits());
    ticks.wall = request.wall;
    ticks.follow_children = impl_->options.follow_children;
    ticks.thread_events = snapshots || !request.wall;
    ticks.target = target;
    ticks.thread_program_fd =
        bpf_program__fd(impl_->has_loop_helper ? impl_->skeleton->progs.on_thread_tick
                                               : impl_->skeleton->progs.on_thread_tick_unrolled);
    ticks.wall_program_fd =
        impl_->has_wall_program ? bpf_program__fd(impl_->skeleton->progs.on_wall_tick) : -1;
    auto timers = TickTimers::start(ticks, &impl_->states);
    if (!timers) {
        stop_timer(target);
        return tl::unexpected(timers.error());
    }
    // The signals go to whoever had the number then: the sampler, if it still lives.
    if (!impl_->lives({*slot, sampler->generation})) {
        stop_timer(target);
        return fail(ErrorKind::kSystem, "start the ticks: the sampler has ended", ESRCH);
    }
    const TimerReport report{ticks.interval_ns, snapshots, timers->thread_events(),
                             timers->threads_without_event()};
    impl_->timers.emplace(target, std::move(*timers));
    impl_->samplers[target] = {*slot, sampler->generation};
    impl_->book.leave_out(target, {*slot, sampler->generation});
    return report;
}

void BpfSession::stop_timer(Target target) {
    impl_->timers.erase(target);
    // Threads are entered and left by the kernel; only what the agent asked for is undone. A tick
    // that is running now may still read the target's memory, never longer than a microsecond.
    (void)impl_->write_config(target, {});
}

std::vector<ThreadCpu> BpfSession::count_cpu(Target target, bool with_living) {
    return impl_->samplers.contains(target) ? impl_->book.count(target, impl_->states, with_living)
                                            : std::vector<ThreadCpu>{};
}

void BpfSession::note_ended() { impl_->book.note_ended(impl_->states); }

std::uint64_t BpfSession::threads_missed() const { return impl_->book.missed(); }

Status BpfSession::keep_ticking() {
    Status result;
    std::vector<Target> orphans;
    for (auto& [target, timers] : impl_->timers) {
        // An event that is opened anew signals whoever has the number of the sampler then.
        const auto sampler = impl_->samplers.find(target);
        bool lives = sampler != impl_->samplers.end() && impl_->lives(sampler->second);
        if (lives) {
            if (auto status = timers.keep_ticking(); !status) {
                result = status;
            }
            lives = impl_->lives(sampler->second);
        }
        if (!lives) {
            orphans.push_back(target);
        }
    }
    for (const Target target : orphans) {
        stop_timer(target);
    }
    return result;
}

std::array<std::uint64_t, ECHION_COUNTERS> BpfSession::counters() const {
    std::array<std::uint64_t, ECHION_COUNTERS> sums{};
    const int cpus = libbpf_num_possible_cpus();
    std::vector<std::uint64_t> values(cpus > 0 ? static_cast<std::size_t>(cpus) : 0);
    const int fd = bpf_map__fd(impl_->skeleton->maps.counters);
    for (std::uint32_t counter = 0; counter < ECHION_COUNTERS; ++counter) {
        if (!values.empty() && bpf_map_lookup_elem(fd, &counter, values.data()) == 0) {
            for (const std::uint64_t value : values) {
                sums[counter] += value;
            }
        }
    }
    return sums;
}

Status BpfSession::enable_stats() {
    impl_->stats.reset(::bpf_enable_stats(BPF_STATS_RUN_TIME));
    if (!impl_->stats) {
        return fail(ErrorKind::kSystem, "measure the BPF programs", errno);
    }
    return {};
}

std::vector<BpfProgramStats> BpfSession::program_stats() const {
    std::vector<BpfProgramStats> result;
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, impl_->skeleton->obj) {
        bpf_prog_info info{};
        std::uint32_t size = sizeof(info);
        if (bpf_program__fd(program) >= 0 &&
            bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) == 0) {
            result.push_back({bpf_program__name(program), info.run_cnt, info.run_time_ns,
                              info.xlated_prog_len / 8});
        }
    }
    return result;
}

std::uint64_t BpfSession::threads_refused() const { return impl_->states.refused(); }

}  // namespace echion::cli
