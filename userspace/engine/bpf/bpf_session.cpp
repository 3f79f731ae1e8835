#include "engine/bpf/bpf_session.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <unistd.h>

#include <array>

#include "engine/bpf/bpf_session_impl.h"
#include "engine/bpf/first_ring.h"
#include "platform/program_image.h"

namespace echion::engine {
namespace {

struct LinkDeleter {
    void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};

}  // namespace

BpfSession::BpfSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BpfSession::~BpfSession() = default;

std::optional<echion_target_state> BpfSession::Impl::read_target(Target target) const {
    echion_target_state state{};
    const int fd = bpf_map__fd(skeleton->maps.target_states);
    if (bpf_map_lookup_elem(fd, &target, &state) != 0) {
        return std::nullopt;
    }
    return state;
}

std::optional<BpfSession::Target> BpfSession::Impl::find_living(pid_t pid) const {
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

bool BpfSession::Impl::lives(const ThreadAccounts::Holder& thread) const {
    const auto state = states.read(thread.slot);
    if (!state) {
        return state.error().kind == ErrorKind::kTorn;  // it runs, and how
    }
    return !state->ended && state->generation == thread.generation;
}

int BpfSession::Impl::write_config(Target target, const echion_target_config& config) const {
    return bpf_map_update_elem(bpf_map__fd(skeleton->maps.target_configs), &target, &config,
                               BPF_ANY);
}

Status BpfSession::Impl::enter_threads(pid_t pid) {
    skeleton->bss->entering_pid = static_cast<std::uint32_t>(pid);
    // Kernels from 6.1 on visit only this process; older ones all, of which the program picks.
    bpf_iter_link_info info{};
    info.task.pid = static_cast<std::uint32_t>(pid);
    LIBBPF_OPTS(bpf_iter_attach_opts, only_this, .link_info = &info, .link_info_len = sizeof(info));
    std::unique_ptr<bpf_link, LinkDeleter> link(
        bpf_program__attach_iter(skeleton->progs.enter_threads, &only_this));
    if (!link) {
        if (errno == ESRCH) {
            return fail(ErrorKind::kSystem, "watch the process", ESRCH);
        }
        link.reset(bpf_program__attach_iter(skeleton->progs.enter_threads, nullptr));
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
    skeleton->bss->entering_pid = 0;
    return {};
}

Result<BpfSession::Target> BpfSession::add_target(pid_t pid) {
    if (const auto known = impl_->find_living(pid)) {
        impl_->added[pid] = *known;
        return *known;
    }
    if (const auto ended = find_target(pid)) {
        remove_target(*ended);  // another process that had this number
    }
    if (const Status status = impl_->enter_threads(pid); !status) {
        return tl::unexpected(status.error());
    }
    if (const auto added = impl_->find_living(pid)) {
        impl_->added[pid] = *added;
        if (const auto state = impl_->read_target(*added)) {
            impl_->accounts.begin(*added, state->target_pid, impl_->states);
        }
        return *added;
    }
    if (is_ending(pid)) {
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
    impl_->accounts.forget(target);
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

std::vector<ThreadCpu> BpfSession::count_cpu(Target target, bool with_living) {
    return impl_->samplers.contains(target)
               ? impl_->accounts.count(target, impl_->states, with_living)
               : std::vector<ThreadCpu>{};
}

void BpfSession::note_ended() { impl_->accounts.note_ended(impl_->states); }

std::uint64_t BpfSession::threads_missed() const { return impl_->accounts.missed(); }

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

}  // namespace echion::engine
