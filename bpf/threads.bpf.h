/* Threads of the targets: who they are, and the slots that they are given. */
#ifndef ECHION_THREADS_BPF_H
#define ECHION_THREADS_BPF_H

#include "maps.bpf.h"

/* STORE_BARRIER() for the machine that this is built on. */
#include ECHION_STORE_ORDER

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/* Levels that PID namespaces may be nested in (MAX_PID_NS_LEVEL, include/linux/pid_namespace.h). */
#define MAX_PID_NAMESPACE_LEVEL 32
/* include/uapi/asm-generic/errno-base.h */
#define EEXIST 17

/* Plain loads and stores that the compiler may neither drop nor merge. */
#define LOAD(lvalue) (*(volatile typeof(lvalue)*)&(lvalue))
#define STORE(lvalue, value) (*(volatile typeof(lvalue)*)&(lvalue) = (value))

/* Where to look next for a free place for a target. */
__u32 next_target = 0;
/* Goes up when a thread changes its target: what was remembered of it is void. */
__u32 members_epoch = 0;

/* Numbers of one task in the namespace of the command-line program and in its own. */
struct task_numbers {
    __u32 here;
    __u32 innermost;
};

/* The numbers of a struct pid, by its address: `here` in the upper half, `innermost` in the lower.
 * A global function, so that the verifier goes through its loop once for each program, and not once
 * for each of the callers with all that follows there for every length of it: that took a third of
 * the time of loading. Such a function takes numbers only, no pointers. */
__noinline __u64 read_pid_numbers(__u64 address) {
    const struct pid* pid = (const struct pid*)address;
    if (!pid) {
        return 0;
    }
    const __u32 level = BPF_CORE_READ(pid, level);
    const void* numbers = __builtin_preserve_access_index(&pid->numbers);
    const struct upid* innermost = numbers + (__u64)level * bpf_core_type_size(struct upid);
    __u64 here = 0;
    /* The verifier goes through it for every level there can be: little is done in it. */
    for (__u32 i = 0; i <= MAX_PID_NAMESPACE_LEVEL && i <= level; i++) {
        const struct upid* upid = numbers + i * bpf_core_type_size(struct upid);
        if (BPF_CORE_READ(upid, ns, ns.inum) == pid_namespace_inode) {
            here = (__u32)BPF_CORE_READ(upid, nr);
            break;
        }
    }
    return here << 32 | (__u32)BPF_CORE_READ(innermost, nr);
}

static __always_inline struct task_numbers read_numbers(struct task_struct* task) {
    const __u64 both = read_pid_numbers((__u64)BPF_CORE_READ(task, thread_pid));
    const struct task_numbers result = {(__u32)(both >> 32), (__u32)both};
    return result;
}

/* What the task is to us, or null. */
static __always_inline struct membership* find_member(struct task_struct* task) {
    struct membership* member;
    if (has_task_storage) {
        member = bpf_task_storage_get(&members, task, 0, 0);
    } else {
        const __u64 key = (__u64)task;
        member = bpf_map_lookup_elem(&members_by_task, &key);
    }
    return member && member->slot ? member : 0;
}

/* Makes the stamp differ from every earlier value, odd for on CPU. */
static __always_inline void touch_stamp(__u32 slot, bool on_cpu) {
    __u32* stamp = find_stamp(slot);
    if (stamp) {
        const __u32 odd = LOAD(*stamp) | 1;
        STORE(*stamp, on_cpu ? odd + 2 : odd + 1);
    }
}

static __always_inline void begin_write(struct echion_thread* thread) {
    STORE(thread->sequence, LOAD(thread->sequence) + 1);
    STORE_BARRIER();
}

static __always_inline void end_write(struct echion_thread* thread) {
    STORE_BARRIER();
    STORE(thread->sequence, LOAD(thread->sequence) + 1);
}

static __always_inline void return_slot(__u32 slot, __u64 ended_ns) {
    struct ended_slot ended = {.slot = slot, .ended_ns = ended_ns};
    bpf_map_push_elem(&ended_slots, &ended, 0);
}

/* A slot that no thread has, as its number plus one; 0 when there is none. Ended ones come first,
 * oldest first, so that the part of the table in use stays as small as it can. */
static __always_inline __u32 take_slot(struct echion_table* table, __u64 now) {
    struct ended_slot ended;
    if (!bpf_map_peek_elem(&ended_slots, &ended) && now - ended.ended_ns >= quarantine_ns &&
        !bpf_map_pop_elem(&ended_slots, &ended)) {
        /* Another CPU may have taken the one that was looked at. */
        if (now - ended.ended_ns >= quarantine_ns) {
            return ended.slot + 1;
        }
        return_slot(ended.slot, ended.ended_ns);
    }
    if (LOAD(table->threads_used) >= thread_capacity) {
        return 0;
    }
    const __u32 slot = __sync_fetch_and_add(&table->threads_used, 1);
    if (slot >= thread_capacity) {
        __sync_fetch_and_sub(&table->threads_used, 1);
        return 0;
    }
    return slot + 1;
}

/* Kept by kernels with CONFIG_SCHED_INFO (schedstats, or delay accounting), as all distributions'.
 */
static __always_inline __u64 read_run_delay(struct task_struct* task) {
    return bpf_core_field_exists(task->sched_info) ? BPF_CORE_READ(task, sched_info.run_delay) : 0;
}

static __always_inline void fill_slot(struct echion_thread* thread, struct task_struct* task,
                                      __u32 target, __u32 creator_tid, __u64 now) {
    const struct task_numbers tid = read_numbers(task);
    const struct task_numbers pid = read_numbers(BPF_CORE_READ(task, group_leader));
    const __u64 cpu_ns = BPF_CORE_READ(task, se.sum_exec_runtime);
    begin_write(thread);
    thread->generation += 1;
    thread->on_cpu_ns = cpu_ns;
    thread->on_cpu_since_ns = ECHION_SINCE_UNKNOWN;
    thread->off_cpu_since_ns = 0;
    thread->run_count = 0;
    thread->run_delay_ns = thread->start_run_delay_ns = read_run_delay(task);
    thread->cpu = 0;
    thread->state = ECHION_THREAD_LIVE;
    thread->off_reason = ECHION_OFF_UNKNOWN;
    thread->target = (__u16)target;
    thread->tid = tid.here;
    thread->pid = pid.here;
    thread->target_tid = tid.innermost;
    thread->target_pid = pid.innermost;
    thread->start_cpu_ns = cpu_ns;
    thread->started_ns = now;
    thread->ended_ns = 0;
    thread->creator_tid = creator_tid;
    thread->program_ns = 0;
    thread->program_cpu_ns = 0;
    end_write(thread);
}

enum published {
    PUBLISHED,
    PUBLISHED_BEFORE, /* another CPU was first */
    NOT_PUBLISHED,    /* no memory for it, or no room */
};

/* Enters the slot into whatever find_member() looks at. */
static __always_inline enum published publish_member(struct task_struct* task, __u32 slot,
                                                     __u32 target) {
    if (has_task_storage) {
        struct membership* member =
            bpf_task_storage_get(&members, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
        if (!member) {
            return NOT_PUBLISHED;
        }
        STORE(member->target, target);
        return __sync_val_compare_and_swap(&member->slot, 0, slot + 1) == 0 ? PUBLISHED
                                                                            : PUBLISHED_BEFORE;
    }
    const __u64 key = (__u64)task;
    const struct membership member = {slot + 1, target};
    const long status = bpf_map_update_elem(&members_by_task, &key, &member, BPF_NOEXIST);
    return status == 0 ? PUBLISHED : status == -EEXIST ? PUBLISHED_BEFORE : NOT_PUBLISHED;
}

static __always_inline void count_refused(struct echion_table* table) {
    __sync_fetch_and_add(&table->threads_refused, 1);
    count(ECHION_COUNT_THREADS_REFUSED);
}

/* The process has been a target before, was forgotten, and is one again, under another number. */
static __always_inline void move_to_target(struct membership* member, __u32 target) {
    struct echion_thread* thread = find_thread(member->slot - 1);
    if (thread && member->target != target) {
        STORE(member->target, target);
        STORE(thread->target, (__u16)target);
        __sync_fetch_and_add(&members_epoch, 1);
    }
}

/* Gives the task a slot, unless it has one. `creator_tid`: in the command-line program's namespace;
 * 0 if not known. */
static __always_inline void enter_thread(struct task_struct* task, __u32 target,
                                         __u32 creator_tid) {
    struct membership* known = find_member(task);
    if (known) {
        move_to_target(known, target);
        return;
    }
    struct echion_table* table = find_table();
    if (!table) {
        return;
    }
    const __u64 now = bpf_ktime_get_ns();
    const __u32 taken = take_slot(table, now);
    struct echion_thread* thread = taken ? find_thread(taken - 1) : 0;
    if (!thread) {
        count_refused(table);
        return;
    }
    const __u32 slot = taken - 1;
    fill_slot(thread, task, target, creator_tid, now);
    const enum published published = publish_member(task, slot, target);
    if (published != PUBLISHED) {
        if (published == NOT_PUBLISHED) {
            count_refused(table);
        }
        STORE(thread->state, ECHION_THREAD_ENDED);
        STORE(thread->on_cpu_since_ns, 0);
        touch_stamp(slot, false);
        return_slot(slot, 0);
        return;
    }
    /* From here on the switches are seen. One that came first has told more than on_cpu can. */
    const bool running = bpf_core_field_exists(task->on_cpu) && BPF_CORE_READ(task, on_cpu);
    const bool first = __sync_val_compare_and_swap(&thread->on_cpu_since_ns, ECHION_SINCE_UNKNOWN,
                                                   running ? now : 0) == ECHION_SINCE_UNKNOWN;
    if (first) {
        touch_stamp(slot, running);
        /* It came onto a CPU meanwhile, and its stamp may have been written over. */
        if (!running && LOAD(thread->on_cpu_since_ns)) {
            touch_stamp(slot, true);
        }
    }
    __sync_fetch_and_add(&table->threads_started, 1);
}

/* Places that are looked at for a new target: most are free, and a fork must not wait. */
#define TARGET_ATTEMPTS 32

/* Claims a number for the process; ECHION_MAX_TARGETS when there is none. */
static __always_inline __u32 claim_target(__u32 kernel_pid) {
    for (__u32 attempt = 0; attempt < TARGET_ATTEMPTS; attempt++) {
        const __u32 target = __sync_fetch_and_add(&next_target, 1) % ECHION_MAX_TARGETS;
        struct echion_target_state* target_state = bpf_map_lookup_elem(&target_states, &target);
        if (target_state &&
            __sync_val_compare_and_swap(&target_state->kernel_pid, 0, kernel_pid) == 0) {
            return target;
        }
    }
    return ECHION_MAX_TARGETS;
}

/* Makes the task's process a target, unless it is one. */
static __always_inline void enter_target(struct task_struct* task) {
    const __u32 kernel_pid = BPF_CORE_READ(task, tgid);
    if (bpf_map_lookup_elem(&targets, &kernel_pid)) {
        return;
    }
    const __u32 target = claim_target(kernel_pid);
    struct echion_target_state* target_state = bpf_map_lookup_elem(&target_states, &target);
    if (!target_state) {
        count(ECHION_COUNT_TARGETS_REFUSED);
        return;
    }
    const struct task_numbers pid = read_numbers(BPF_CORE_READ(task, group_leader));
    target_state->target_pid = pid.innermost;
    target_state->pending = 0;
    STORE(target_state->pid, pid.here);
    if (bpf_map_update_elem(&targets, &kernel_pid, &target, BPF_NOEXIST)) {
        STORE(target_state->pid, 0);
        STORE(target_state->kernel_pid, 0);
    }
}

#endif
