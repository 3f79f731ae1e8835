// Loading the BPF programs and attaching them; what the kernel lacks is done without.

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <bit>
#include <future>

#include "base/file_limit.h"
#include "engine/bpf/bpf_session_impl.h"
#include "engine/bpf/first_ring.h"
#include "engine/perf/perf_event.h"

namespace echion::engine {
namespace {

constexpr std::uint32_t stamp_entries(std::uint32_t thread_capacity) {
    return (thread_capacity + ECHION_STAMPS_PER_ENTRY - 1) / ECHION_STAMPS_PER_ENTRY;
}

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
    auto states = CpuStateMap::open(bpf_map__fd(skeleton.maps.state), options.clock_ahead_ns);
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

}  // namespace echion::engine
