/*
 * The contract between the BPF programs in the kernel, the command-line program that loads them,
 * and the agent in the target that reads what they record. Plain C, fixed-width fields, explicit
 * padding; the sizes are asserted wherever the file is compiled. The programs are built into the
 * command-line program, which hands the memory to an agent of its own version: a reader checks
 * `version` and refuses any other.
 *
 * The state map is one array of 128-byte entries in memory that the agent maps read-only:
 *
 *     entry 0                 struct echion_table: sizes, how far the table is in use
 *     first_stamp_entry ...   struct echion_stamps: a change stamp per slot, 32 to an entry
 *     first_thread_entry ...  struct echion_thread: one per slot
 *
 * The stamps are apart so that finding which of 1,000 threads have run since the last look reads
 * 4 KiB and not 128.
 */
#ifndef ECHION_BPF_ABI_H
#define ECHION_BPF_ABI_H

#ifdef __bpf__
#include "vmlinux_min.h"
#else
#include <linux/types.h>
#endif

#ifdef __cplusplus
#define ECHION_ABI_ASSERT(condition, text) static_assert(condition, text)
#else
#define ECHION_ABI_ASSERT(condition, text) _Static_assert(condition, text)
#endif

#define ECHION_ABI_MAGIC 0x4d504245u /* "EBPM" */
#define ECHION_ABI_VERSION 2u

/* Slots unless the command-line program asks for fewer or more: a thread costs the kernel some
 * 16 KiB of stack, so that a process with more threads is rare; the table takes 2 MiB. */
#define ECHION_DEFAULT_THREADS 16384u
/* The largest table: 8 MiB, which keeps every index in 17 bits. */
#define ECHION_MAX_THREADS 65536u
/* Processes of one session at a time: the target and, if asked, its living descendants. A server
 * that keeps more workers than this is sampled in part, and that is counted. */
#define ECHION_MAX_TARGETS 512u
/* A slot is given to another thread no sooner than this after its thread has ended, so that the
 * agent, which looks at every tick, has read the final figures. */
#define ECHION_SLOT_QUARANTINE_NS 1000000000ull

#define ECHION_ENTRY_BYTES 128u
#define ECHION_STAMPS_PER_ENTRY 32u

/* ---- the state map ---------------------------------------------------------------------- */

struct echion_table {
    __u32 magic;
    __u32 version;
    __u32 thread_capacity; /* slots in the table */
    __u32 threads_used;    /* slots below this have been given at least once; may be read as more
                            * than thread_capacity for an instant: take the smaller */
    __u32 first_stamp_entry;
    __u32 first_thread_entry;
    __u64 threads_started;
    __u64 threads_ended;
    __u64 threads_refused;     /* no slot was free, or no memory: not in the table */
    __u64 snapshot_ring_bytes; /* size of the data part of each snapshot ring */
    __u64 reserved[9];
};

/* A slot's stamp is odd while its thread is on a CPU. It differs from an earlier reading if the
 * thread has run since, ended, or given the slot up to another; wraps after 2^31 switches. */
struct echion_stamps {
    __u32 stamp[ECHION_STAMPS_PER_ENTRY];
};

enum echion_thread_state {
    ECHION_THREAD_FREE = 0, /* never given */
    ECHION_THREAD_LIVE = 1,
    ECHION_THREAD_ENDED = 2, /* its figures are final; the slot will be given again */
};

/* Why the thread last left its CPU. */
enum echion_off_reason {
    ECHION_OFF_UNKNOWN = 0,
    ECHION_OFF_PREEMPTED = 1, /* had more to run: preempted, or yielded */
    ECHION_OFF_WAITING = 2,   /* interruptible sleep: locks, sockets, timers */
    ECHION_OFF_BLOCKED = 3,   /* uninterruptible sleep: disks, page faults */
    ECHION_OFF_STOPPED = 4,   /* stopped by a signal or a tracer */
    ECHION_OFF_ENDED = 5,
};

/* Value of on_cpu_since_ns while a thread found running is being entered: no time yet. */
#define ECHION_SINCE_UNKNOWN 1ull

/* One thread. Written by the CPU that switches it, under `sequence`: odd while being written. A
 * reader copies, and takes the copy only if `sequence` was even and the same before and after. The
 * order of the writes is the program order of one x86 CPU. */
struct echion_thread {
    __u32 sequence;
    __u32 generation;         /* counts the threads that have had this slot, from 1 */
    __u64 on_cpu_ns;          /* CPU time up to the last switch, the kernel's own figure
                               * (sum_exec_runtime), since the thread began */
    __u64 on_cpu_since_ns;    /* CLOCK_MONOTONIC of the last switch in; 0 while off CPU */
    __u64 off_cpu_since_ns;   /* CLOCK_MONOTONIC of the last switch out; 0 if none was seen */
    __u64 run_count;          /* times switched in while in the table */
    __u64 run_delay_ns;       /* time runnable without a CPU up to the last switch, the kernel's own
                               * figure (sched_info.run_delay), since the thread began; 0: the
                               * kernel keeps none */
    __u64 start_run_delay_ns; /* run_delay_ns when the thread was entered */
    __u32 cpu;                /* where it runs, or ran last */
    __u8 state;               /* enum echion_thread_state */
    __u8 off_reason;          /* enum echion_off_reason */
    __u16 target;             /* number of its process in this session */
    /* The rest changes seldom: a cache line of its own. */
    __u32 tid; /* in the PID namespace of the command-line program; 0: not visible */
    __u32 pid;
    __u32 target_tid; /* in the innermost PID namespace, as the thread sees itself */
    __u32 target_pid;
    __u64 start_cpu_ns; /* on_cpu_ns when the thread was entered */
    __u64 started_ns;   /* CLOCK_MONOTONIC when it was entered */
    __u64 ended_ns;     /* CLOCK_MONOTONIC of its last switch; 0 while it lives */
    __u32 creator_tid;  /* of the thread that started it, as `tid`; 0: found running */
    __u32 reserved32;
    /* When it last ran another program (exec) while in the table, and on_cpu_ns then; 0: never. */
    __u64 program_ns; /* CLOCK_MONOTONIC */
    __u64 program_cpu_ns;
};

ECHION_ABI_ASSERT(sizeof(struct echion_table) == ECHION_ENTRY_BYTES, "table entry");
ECHION_ABI_ASSERT(sizeof(struct echion_stamps) == ECHION_ENTRY_BYTES, "stamp entry");
ECHION_ABI_ASSERT(sizeof(struct echion_thread) == ECHION_ENTRY_BYTES, "thread entry");

/* ---- snapshots -------------------------------------------------------------------------- */

/* Frames of one snapshot: it has to end, and takes some 15 to 70 ns a frame of the interrupted
 * thread's time. Deeper stacks are completed by the agent. */
#define ECHION_SNAPSHOT_FRAMES 128u
/* The part of a frame object that holds the fields below; the largest (3.8) needs 108. */
#define ECHION_FRAME_BYTES 128u
#define ECHION_MAX_CODE_UNITS (1u << 27) /* of two bytes; no code object has more */
/* The part of a PyThreadState that holds the fields below; the largest (3.11) needs 256. */
#define ECHION_THREAD_STATE_BYTES 256u
/* Of the data stack (3.11 and later) so much is copied at a time: 25 to 40 frames, for what six
 * reads of single ones cost. */
#define ECHION_WINDOW_BYTES 4096u
/* An offset that the version does not have. */
#define ECHION_ABSENT 0xffffu
/* Bytes of one target's ring: 20 ms of 128-frame stacks at 10,000 ticks a second. A power of two
 * and a multiple of the page size, as the kernel demands. */
#define ECHION_SNAPSHOT_RING_BYTES (1u << 20)

/* Where a thread's Python state is. The agent keeps one per slot, indexed by slot, in an array in
 * its own memory, which the program reads while it interrupts a thread of that very process: a
 * wrong address costs a read that fails. */
struct echion_thread_ref {
    __u64 thread_state; /* PyThreadState*, 0: none */
    __u32 generation;   /* of the slot, when this was written; another one: stale */
    __u32 reserved;
};

/* How to get from a thread state to its frames: echion::cpython::Layout in short. Made so that the
 * program needs few branches for what differs between versions. */
struct echion_snapshot_layout {
    __u64 thread_refs;    /* address in the target of its echion_thread_ref array; 0: off */
    __u64 pointer_mask;   /* the bits that a pointer of the target has */
    __u16 state_from;     /* of PyThreadState this part is copied, */
    __u16 state_bytes;    /* at most ECHION_THREAD_STATE_BYTES; the next three are in it, */
    __u16 head;           /* counted from state_from: the newest frame, or the _PyCFrame */
    __u16 stack_chunk;    /* the data stack's newest chunk; ECHION_ABSENT: frames are objects */
    __u16 stack_top;      /* the first free byte in it; ECHION_ABSENT: likewise */
    __u16 cframe_head;    /* in _PyCFrame: the newest frame; ECHION_ABSENT: head is the frame */
    __u16 chunk_data;     /* in _PyStackChunk: where the frames begin */
    __u16 frame_bytes;    /* to copy of each frame; at most ECHION_FRAME_BYTES */
    __u16 frame_previous; /* these four: below frame_bytes */
    __u16 frame_code;
    __u16 frame_instruction;
    __u16 frame_owner;        /* of a byte */
    __u16 owner_without_code; /* frames with that byte or more are left out; ECHION_ABSENT: none */
    __u16 instruction_shift;  /* 64 less the bits of the instruction field (f_lasti: 32) */
    __u16 frame_tlbc;    /* of an int32: which copy of its bytecode a frame runs, 0: that in the
                          * code object; below frame_bytes; 0: there are no copies */
    __u16 code_tag;      /* bits of a frame's code that are no part of the address; the next
                          * four count where there are copies */
    __u16 code_size;     /* in PyCodeObject: its code units (ob_size, 64 bits) */
    __u16 code_tlbc;     /* likewise: the _PyCodeArray* that has the copies */
    __u16 code_adaptive; /* likewise: its own bytecode */
    __u16 tlbc_entries;  /* in _PyCodeArray, behind their number (64 bits): pointers to them */
    __u64 reserved;
};

struct echion_frame {
    __u64 frame;       /* address */
    __u64 code;        /* PyCodeObject*, perhaps with a tag, not checked */
    __u64 instruction; /* as the frame has it, sign-extended; of a copy of the bytecode: the same
                        * place in the code object */
};

enum echion_snapshot_end {
    ECHION_SNAPSHOT_COMPLETE = 0, /* the walk came to the root */
    ECHION_SNAPSHOT_MORE = 1,     /* full: `next` is the first frame that is missing */
    ECHION_SNAPSHOT_FAULT = 2, /* `next` could not be read: a page that is not resident, or bad */
};

/* A record of a snapshot ring: this, then frame_count times struct echion_frame, newest first. */
struct echion_snapshot {
    __u32 slot;
    __u32 generation; /* of the slot */
    __u32 target_tid;
    __u32 cpu;
    __u64 time_ns;      /* CLOCK_MONOTONIC of the tick */
    __u64 cpu_ns;       /* CPU time of the thread at the tick, as on_cpu_ns counts it */
    __u64 thread_state; /* PyThreadState* that was read */
    __u64 next;         /* where the walk ended; 0 when complete */
    __u16 frame_count;
    __u16 end; /* enum echion_snapshot_end */
    __u32 reserved;
};

ECHION_ABI_ASSERT(sizeof(struct echion_thread_ref) == 16, "thread ref");
ECHION_ABI_ASSERT(sizeof(struct echion_snapshot_layout) == 64, "snapshot layout");
ECHION_ABI_ASSERT(sizeof(struct echion_frame) == 24, "frame");
ECHION_ABI_ASSERT(sizeof(struct echion_snapshot) == 56, "snapshot");

/* ---- between the command-line program and the programs only ----------------------------- */

/* What the command-line program tells the programs of one target. */
struct echion_target_config {
    __u32 sampler_slot;        /* the slot's number plus one; 0: no sampler known yet */
    __u32 sampler_generation;  /* of the slot */
    __u32 max_pending;         /* tick signals that may wait for the sampler; more are swallowed */
    __u32 thread_ticks_signal; /* 1: ticks of the target's threads send signals; 0: they only take
                                * snapshots, and the wall clock's ticks send signals */
    __u64 signal_gap_ns;       /* a snapshot waits in the ring until so much time has passed since
                                * the last signal; a tick without one sends its signal at once */
    struct echion_snapshot_layout snapshot;
};

/* What the programs know of one target. */
struct echion_target_state {
    __u32 pid;          /* in the PID namespace of the command-line program; 0: it has ended */
    __u32 target_pid;   /* in its own */
    __u32 kernel_pid;   /* in the initial namespace: the key in the map of targets; 0: this place in
                         * the table is free */
    __u32 pending;      /* tick signals sent since the sampler last went to sleep */
    __u64 signalled_ns; /* CLOCK_MONOTONIC of the last one, sent or swallowed; 0: none yet */
};

/* Places in the counters map, one copy per CPU. */
enum echion_counter {
    ECHION_COUNT_TICKS = 0,        /* ticks in a thread of a target, the sampler's own aside */
    ECHION_COUNT_OWN_TICKS,        /* in the sampler: swallowed */
    ECHION_COUNT_FOREIGN_TICKS,    /* in a thread that is not in the table: swallowed */
    ECHION_COUNT_SIGNALS,          /* signals sent */
    ECHION_COUNT_SAMPLER_BUSY,     /* signals swallowed because max_pending were waiting */
    ECHION_COUNT_SNAPSHOTS,        /* written */
    ECHION_COUNT_SNAPSHOT_UNKNOWN, /* no thread state known for the thread, or a stale one */
    ECHION_COUNT_SNAPSHOT_FAULT,   /* the thread state or its first frame could not be read */
    ECHION_COUNT_SNAPSHOT_FULL,    /* no room in the ring */
    ECHION_COUNT_THREADS_REFUSED,  /* the table was full, or the kernel had no memory */
    ECHION_COUNT_TARGETS_REFUSED,  /* more processes than ECHION_MAX_TARGETS */
    ECHION_COUNTERS
};

ECHION_ABI_ASSERT(sizeof(struct echion_target_config) == 88, "target config");
ECHION_ABI_ASSERT(sizeof(struct echion_target_state) == 24, "target state");

#endif
