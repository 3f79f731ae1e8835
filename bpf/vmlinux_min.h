/*
 * The kernel's types that the programs use, and of each only the fields that they read. The loader
 * finds every field by name in the running kernel's BTF (CO-RE), so neither their order nor what
 * lies between them matters here. Names and types are the kernel's (include/linux/sched.h, pid.h,
 * pid_namespace.h, include/uapi/linux/bpf.h).
 */
#ifndef ECHION_VMLINUX_MIN_H
#define ECHION_VMLINUX_MIN_H

typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;
enum { false = 0, true = 1 };

/* include/uapi/linux/bpf.h: numbers that user space may rely on. */
enum bpf_map_type {
    BPF_MAP_TYPE_HASH = 1,
    BPF_MAP_TYPE_ARRAY = 2,
    BPF_MAP_TYPE_PERCPU_ARRAY = 6,
    BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
    BPF_MAP_TYPE_QUEUE = 22,
    BPF_MAP_TYPE_RINGBUF = 27,
    BPF_MAP_TYPE_TASK_STORAGE = 29,
};
enum { BPF_NOEXIST = 1 };
enum { BPF_F_NO_PREALLOC = 1, BPF_F_MMAPABLE = 1 << 10 };
enum { BPF_LOCAL_STORAGE_GET_F_CREATE = 1 };
enum { BPF_RB_NO_WAKEUP = 1 };

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
    unsigned int inum;
};

struct pid_namespace {
    struct ns_common ns;
};

struct upid {
    int nr;
    struct pid_namespace* ns;
};

struct pid {
    unsigned int level;
    struct upid numbers[1]; /* level + 1 of them */
};

typedef struct {
    int counter;
} atomic_t;

struct signal_struct {
    atomic_t live;
};

struct sched_entity {
    __u64 sum_exec_runtime;
};

struct bpf_local_storage;

/* Of each type the loader searches all that the kernel has, for a millisecond: so there are few,
 * and a field that was renamed is here under both names. */
struct sched_info {
    unsigned long long run_delay;
};

struct task_struct {
    unsigned int __state;
    volatile long state; /* its name before 5.14 */
    int on_cpu;
    struct sched_entity se;
    int pid;
    int tgid;
    struct task_struct* group_leader;
    struct pid* thread_pid;
    struct sched_info sched_info;
    struct signal_struct* signal;
    struct bpf_local_storage* bpf_storage;
};

struct linux_binprm;
struct seq_file;
struct bpf_perf_event_data;

#pragma clang attribute pop

/* What a program gets of an iterator: as fixed as the calling convention of a helper (struct
 * bpf_iter__task, kernel/bpf/task_iter.c), so that nothing has to be found. */
struct bpf_iter__task {
    __u64 meta; /* struct bpf_iter_meta* */
    struct task_struct* task;
};

#endif
