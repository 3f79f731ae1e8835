/* The maps, and where in them things are. */
#ifndef ECHION_MAPS_BPF_H
#define ECHION_MAPS_BPF_H

#include "vmlinux_min.h"

#include <bpf/bpf_helpers.h>

#include "abi.h"

/* Set by the command-line program before loading. The verifier takes them for constants, so that
 * what a kernel cannot do is not even looked at. */
const volatile __u32 thread_capacity = ECHION_DEFAULT_THREADS;
const volatile __u32 first_stamp_entry = 1;
const volatile __u32 first_thread_entry = 1 + ECHION_DEFAULT_THREADS / ECHION_STAMPS_PER_ENTRY;
const volatile __u32 pid_namespace_inode = 0; /* of the command-line program */
const volatile __u64 quarantine_ns = ECHION_SLOT_QUARANTINE_NS;
const volatile bool has_task_storage = true; /* 5.13 and later */
const volatile bool follow_children = false;

union entry {
    struct echion_table table;
    struct echion_stamps stamps;
    struct echion_thread thread;
};

/* What the agent maps. The command-line program sets its size, and freezes it against every write
 * from user space before it hands it out. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, union entry);
} state SEC(".maps");

/* What a task is to us. `slot` is the slot's number plus one, so that zero means none yet. */
struct membership {
    __u32 slot;
    __u32 target;
};

struct {
    __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, int);
    __type(value, struct membership);
} members SEC(".maps");

/* The same by address of the task, for kernels without task storage in tracing programs; the
 * command-line program gives it its size there. Preallocated, as programs on perf events demand.
 * Not by thread id: when a thread execs, its number and its leader's change hands while the leader
 * may still have its last switch to go. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u64);
    __type(value, struct membership);
} members_by_task SEC(".maps");

/* Members seen lately on this CPU, at the low bits of their thread id (initial namespace): found
 * without a helper's call. An entry counts only while the slot still has that living thread, so
 * that no other task can be at its address, and no thread has changed its target since (`epoch`).
 * As many as a busy process switches between. */
#define RECENT_MEMBERS 256

struct recent_member {
    __u64 task; /* address */
    __u32 epoch;
    __u32 generation; /* of the slot */
    struct membership member;
};

struct recent_members {
    struct recent_member entry[RECENT_MEMBERS];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct recent_members);
} recent_members SEC(".maps");

/* Slots whose threads have ended, oldest first. */
struct ended_slot {
    __u32 slot;
    __u32 unused;
    __u64 ended_ns;
};

struct {
    __uint(type, BPF_MAP_TYPE_QUEUE);
    __uint(max_entries, ECHION_MAX_THREADS);
    __type(value, struct ended_slot);
} ended_slots SEC(".maps");

/* Process id (initial namespace) → number of the target. Twice the bound keeps a hash map's
 * free list from running dry while entries are deleted and added at once. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 2 * ECHION_MAX_TARGETS);
    __type(key, __u32);
    __type(value, __u32);
} targets SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, ECHION_MAX_TARGETS);
    __type(key, __u32);
    __type(value, struct echion_target_config);
} target_configs SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, ECHION_MAX_TARGETS);
    __type(key, __u32);
    __type(value, struct echion_target_state);
} target_states SEC(".maps");

/* One ring per target: an agent sees only what was read from its own process. */
struct snapshot_ring {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, ECHION_SNAPSHOT_RING_BYTES);
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, ECHION_MAX_TARGETS);
    __type(key, __u32);
    __array(values, struct snapshot_ring);
} snapshot_rings SEC(".maps");

/* Where a snapshot is put together: too large for the stack. A tick is not interrupted by another
 * on the same CPU. */
struct snapshot_scratch {
    struct echion_snapshot head;
    struct echion_frame frames[ECHION_SNAPSHOT_FRAMES];
    /* Here and below, room for a load of 8 bytes at the last offset. */
    __u8 thread_state[ECHION_THREAD_STATE_BYTES + 8];
    __u64 window_base;  /* address that `window` was copied from */
    __u64 window_bytes; /* that were copied; 0: none */
    __u64 stack_base;   /* where the frames of the data stack's newest chunk begin */
    __u8 window[ECHION_WINDOW_BYTES];
    __u8 single[ECHION_FRAME_BYTES]; /* a frame that lies elsewhere */
    __u8 room[ECHION_FRAME_BYTES + 8];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct snapshot_scratch);
} scratch SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, ECHION_COUNTERS);
    __type(key, __u32);
    __type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 counter) {
    __u64* value = bpf_map_lookup_elem(&counters, &counter);
    if (value) {
        *value += 1;
    }
}

static __always_inline bool is_sampler(const struct echion_target_config* config, __u32 slot,
                                       __u32 generation) {
    return config->sampler_slot == slot + 1 && config->sampler_generation == generation;
}

static __always_inline union entry* find_entry(__u32 index) {
    return bpf_map_lookup_elem(&state, &index);
}

static __always_inline struct echion_table* find_table(void) {
    union entry* entry = find_entry(0);
    return entry ? &entry->table : 0;
}

static __always_inline struct echion_thread* find_thread(__u32 slot) {
    union entry* entry = find_entry(first_thread_entry + slot);
    return entry ? &entry->thread : 0;
}

static __always_inline __u32* find_stamp(__u32 slot) {
    union entry* entry = find_entry(first_stamp_entry + slot / ECHION_STAMPS_PER_ENTRY);
    return entry ? &entry->stamps.stamp[slot % ECHION_STAMPS_PER_ENTRY] : 0;
}

#endif
