/*
 * What the kernel tells Echion about the threads of its targets: CPU time and switches, from the
 * scheduler's tracepoints, and on every tick of a perf event the Python stack of the thread that
 * it interrupts. Whoever is not a target pays two loads a switch.
 *
 *     sched_process_fork    a thread of a target is given its slot before it first runs
 *     sched_switch          keeps the slots; returns those of threads that have ended
 *     sched_process_exec    numbers change hands, and the agent's memory is gone
 *     sched_process_exit    the last thread of a process takes it off the map of targets
 *     iter/task             gives slots to the threads that are there already
 *     perf_event            a tick: snapshot, and whether to signal the sampler
 */
#include "vmlinux_min.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "abi.h"
#include "maps.bpf.h"
#include "snapshot.bpf.h"
#include "threads.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* include/linux/sched.h; the same since 4.14. */
#define TASK_UNINTERRUPTIBLE 0x02
#define TASK_STOPPED_OR_TRACED 0x0c
#define TASK_DEAD 0x80

/* The process that enter_threads is about, by its number in the command-line program's namespace.
 * Written before each run of the iterator. */
__u32 entering_pid = 0;

static __always_inline __u32 read_state(struct task_struct* task) {
    if (bpf_core_field_exists(task->__state)) {
        return task->__state;
    }
    return (__u32)task->state;
}

static __always_inline __u8 classify(bool preempted, __u32 task_state) {
    if (preempted || task_state == 0) {
        return ECHION_OFF_PREEMPTED;
    }
    if (task_state & TASK_DEAD) {
        return ECHION_OFF_ENDED;
    }
    if (task_state & TASK_STOPPED_OR_TRACED) {
        return ECHION_OFF_STOPPED;
    }
    return task_state & TASK_UNINTERRUPTIBLE ? ECHION_OFF_BLOCKED : ECHION_OFF_WAITING;
}

/* The sampler goes to sleep, so it has taken all signals there were. */
static __always_inline void note_sleep(__u32 slot, __u32 generation, __u32 target) {
    const struct echion_target_config* config = bpf_map_lookup_elem(&target_configs, &target);
    if (config && is_sampler(config, slot, generation)) {
        struct echion_target_state* target_state = bpf_map_lookup_elem(&target_states, &target);
        if (target_state) {
            STORE(target_state->pending, 0);
        }
    }
}

static __always_inline void note_end(struct task_struct* task, __u32 slot, __u64 now) {
    struct echion_table* table = find_table();
    if (table) {
        __sync_fetch_and_add(&table->threads_ended, 1);
    }
    if (!has_task_storage) {
        const __u64 key = (__u64)task;
        bpf_map_delete_elem(&members_by_task, &key);
    }
    return_slot(slot, now);
}

/* A member that takes part in a switch, and its slot. */
struct switching {
    struct membership member;
    struct echion_thread* thread; /* null: the task is no member */
};

/* `may_be_member`: false for most tasks of a machine, which have no task storage at all. Looked at
 * once by the caller: for each such load the verifier searches the kernel's types, for a third of a
 * millisecond. */
static __always_inline struct switching find_switching(struct recent_members* recent,
                                                       struct task_struct* task,
                                                       bool may_be_member) {
    struct switching result = {{0, 0}, 0};
    if (!may_be_member) {
        return result;
    }
    struct recent_member* entry = &recent->entry[(__u32)task->pid % RECENT_MEMBERS];
    const __u32 epoch = LOAD(members_epoch);
    if (entry->task == (__u64)task && entry->epoch == epoch) {
        struct echion_thread* thread = find_thread(entry->member.slot - 1);
        if (thread && thread->generation == entry->generation &&
            thread->state == ECHION_THREAD_LIVE) {
            result.member = entry->member;
            result.thread = thread;
            return result;
        }
    }
    const struct membership* member = find_member(task);
    struct echion_thread* thread = member ? find_thread(member->slot - 1) : 0;
    if (!thread) {
        return result;
    }
    entry->task = (__u64)task;
    entry->epoch = epoch;
    entry->generation = thread->generation;
    entry->member = *member;
    result.member = *member;
    result.thread = thread;
    return result;
}

static __always_inline void switch_out(struct task_struct* task, const struct switching* out,
                                       bool preempted, __u64 now) {
    struct echion_thread* thread = out->thread;
    const __u32 slot = out->member.slot - 1;
    const __u8 reason = classify(preempted, read_state(task));
    begin_write(thread);
    thread->on_cpu_ns = task->se.sum_exec_runtime;
    STORE(thread->on_cpu_since_ns, 0);
    thread->off_cpu_since_ns = now;
    if (bpf_core_field_exists(task->sched_info)) {
        thread->run_delay_ns = task->sched_info.run_delay;
    }
    thread->off_reason = reason;
    if (reason == ECHION_OFF_ENDED) {
        thread->state = ECHION_THREAD_ENDED;
        thread->ended_ns = now;
    }
    end_write(thread);
    touch_stamp(slot, false);
    if (reason == ECHION_OFF_ENDED) {
        note_end(task, slot, now);
    } else if (reason != ECHION_OFF_PREEMPTED) {
        note_sleep(slot, thread->generation, out->member.target);
    }
}

static __always_inline void switch_in(const struct switching* in, __u64 now) {
    struct echion_thread* thread = in->thread;
    begin_write(thread);
    STORE(thread->on_cpu_since_ns, now);
    thread->run_count += 1;
    thread->cpu = bpf_get_smp_processor_id();
    end_write(thread);
    touch_stamp(in->member.slot - 1, true);
}

/* A call of a helper costs more than all the rest (10 to 30 ns, with the mitigations for
 * speculative execution), so there is one as a rule: the clock's. */
SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempted, struct task_struct* previous, struct task_struct* next) {
    const bool may_go = !has_task_storage || previous->bpf_storage;
    const bool may_come = !has_task_storage || next->bpf_storage;
    if (!may_go && !may_come) {
        return 0;
    }
    const __u32 zero = 0;
    struct recent_members* recent = bpf_map_lookup_elem(&recent_members, &zero);
    if (!recent) {
        return 0;
    }
    const struct switching out = find_switching(recent, previous, may_go);
    const struct switching in = find_switching(recent, next, may_come);
    if (!out.member.slot && !in.member.slot) {
        return 0;
    }
    const __u64 now = bpf_ktime_get_ns();
    if (out.thread) {
        switch_out(previous, &out, preempted, now);
    }
    if (in.thread) {
        switch_in(&in, now);
    }
    return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct* parent, struct task_struct* child) {
    const __u32 parent_pid = parent->tgid;
    const __u32 child_pid = child->tgid;
    const __u32* target = bpf_map_lookup_elem(&targets, &parent_pid);
    if (!target) {
        return 0;
    }
    if (child_pid != parent_pid) {
        if (!follow_children) {
            return 0;
        }
        enter_target(child);
        target = bpf_map_lookup_elem(&targets, &child_pid);
        if (!target) {
            return 0;
        }
    }
    struct membership* creator = find_member(parent);
    const struct echion_thread* creator_thread = creator ? find_thread(creator->slot - 1) : 0;
    enter_thread(child, *target, creator_thread ? creator_thread->tid : 0);
    return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct* task, int old_tid) {
    /* The agent that gave these addresses has gone with its memory, and the new program may have
     * more rights than it had: neither snapshots nor signals. */
    const __u32 pid = task->tgid;
    const __u32* target = bpf_map_lookup_elem(&targets, &pid);
    struct echion_target_config* config = target ? bpf_map_lookup_elem(&target_configs, target) : 0;
    if (config) {
        STORE(config->snapshot.thread_refs, 0);
        STORE(config->max_pending, 0);
        STORE(config->sampler_slot, 0);
    }
    struct membership* member = find_member(task);
    struct echion_thread* thread = member ? find_thread(member->slot - 1) : 0;
    if (!thread) {
        return 0;
    }
    /* It has taken over its leader's number. */
    const struct task_numbers tid = read_numbers(task);
    STORE(thread->tid, tid.here);
    STORE(thread->target_tid, tid.innermost);
    /* What the old program used is not the new one's. */
    STORE(thread->program_cpu_ns, BPF_CORE_READ(task, se.sum_exec_runtime));
    STORE(thread->program_ns, bpf_ktime_get_ns());
    touch_stamp(member->slot - 1, true);
    return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct* task) {
    /* The kernel has counted this thread off already. */
    if (BPF_CORE_READ(task, signal, live.counter) != 0) {
        return 0;
    }
    const __u32 pid = task->tgid;
    const __u32* target = bpf_map_lookup_elem(&targets, &pid);
    if (!target) {
        return 0;
    }
    const __u32 number = *target;
    struct echion_target_state* target_state = bpf_map_lookup_elem(&target_states, &number);
    const struct echion_target_config* config = bpf_map_lookup_elem(&target_configs, &number);
    bpf_map_delete_elem(&targets, &pid);
    if (target_state && config) {
        STORE(target_state->pid, 0);
        if (!config->sampler_slot) {
            /* It never had an agent, so the command-line program keeps nothing for it. */
            STORE(target_state->kernel_pid, 0);
        }
    }
    return 0;
}

SEC("iter/task")
int enter_threads(struct bpf_iter__task* ctx) {
    struct task_struct* task = ctx->task;
    const __u32 pid = LOAD(entering_pid);
    if (!task || !pid || read_numbers(BPF_CORE_READ(task, group_leader)).here != pid) {
        return 0;
    }
    enter_target(task);
    const __u32 kernel_pid = task->tgid;
    const __u32* target = bpf_map_lookup_elem(&targets, &kernel_pid);
    if (target) {
        enter_thread(task, *target, 0);
    }
    return 0;
}

/* Whether to send the sampler of this target a signal now. */
static __always_inline bool may_signal(__u32 target, const struct echion_target_config* config) {
    struct echion_target_state* target_state = bpf_map_lookup_elem(&target_states, &target);
    if (!target_state || !config->max_pending) {
        return false;
    }
    STORE(target_state->signalled_ns, bpf_ktime_get_ns());
    if (LOAD(target_state->pending) >= config->max_pending) {
        count(ECHION_COUNT_SAMPLER_BUSY);
        return false;
    }
    __sync_fetch_and_add(&target_state->pending, 1);
    count(ECHION_COUNT_SIGNALS);
    return true;
}

/* Whether a snapshot in the ring can wait for the next tick's signal: to wake another thread costs
 * more than all the rest of a tick. What the snapshot refers to changes only while threads of the
 * target run, so it is at most so much of their time old when it is read. */
static __always_inline bool can_wait(__u32 target, const struct echion_target_config* config) {
    const struct echion_target_state* target_state = bpf_map_lookup_elem(&target_states, &target);
    const __u64 signalled_ns = target_state ? LOAD(target_state->signalled_ns) : 0;
    return config->signal_gap_ns && signalled_ns &&
           bpf_ktime_get_ns() - signalled_ns < config->signal_gap_ns;
}

static __always_inline int tick_thread(bool has_loop_helper) {
    struct membership* member;
    if (has_task_storage) {
        member = bpf_task_storage_get(&members, bpf_get_current_task_btf(), 0, 0);
    } else {
        const __u64 key = bpf_get_current_task();
        member = bpf_map_lookup_elem(&members_by_task, &key);
    }
    struct echion_thread* thread = member && member->slot ? find_thread(member->slot - 1) : 0;
    if (!thread) {
        count(ECHION_COUNT_FOREIGN_TICKS);
        return 0;
    }
    const __u32 target = member->target;
    const struct echion_target_config* config = bpf_map_lookup_elem(&target_configs, &target);
    if (!config) {
        return 0;
    }
    if (is_sampler(config, member->slot - 1, thread->generation)) {
        count(ECHION_COUNT_OWN_TICKS);
        return 0;
    }
    count(ECHION_COUNT_TICKS);
    if (thread->on_cpu_since_ns <= ECHION_SINCE_UNKNOWN) {
        /* It was entered while it ran, and the moment was missed. */
        STORE(thread->on_cpu_since_ns, bpf_ktime_get_ns());
        touch_stamp(member->slot - 1, true);
    }
    const bool taken =
        take_snapshot(thread, member->slot - 1, target, &config->snapshot, has_loop_helper);
    if (!config->thread_ticks_signal || (taken && can_wait(target, config))) {
        return 0;
    }
    return may_signal(target, config);
}

/* A tick of an event on the target's own threads, after so much CPU time of the one interrupted. */
SEC("perf_event")
int on_thread_tick(void* ctx) { return tick_thread(true); }

/* The same for kernels before 5.17, without bpf_loop(): the verifier goes through every step of the
 * walk, which takes it a tenth of a second. */
SEC("perf_event")
int on_thread_tick_unrolled(void* ctx) { return tick_thread(false); }

/* A tick of the wall clock, on whatever CPU the event is; its cookie is the target's number. */
SEC("perf_event")
int on_wall_tick(void* ctx) {
    const __u32 target = (__u32)bpf_get_attach_cookie(ctx);
    const struct echion_target_config* config = bpf_map_lookup_elem(&target_configs, &target);
    return config && may_signal(target, config);
}
