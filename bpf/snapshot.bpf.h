/* The copy of the interrupted thread's Python stack that a tick takes. It runs in that thread's own
 * context, so that the thread stands still meanwhile, and reads its memory without ever waiting for
 * a page. */
#ifndef ECHION_SNAPSHOT_BPF_H
#define ECHION_SNAPSHOT_BPF_H

#include "threads.bpf.h"

/* Loads a pointer of the target; false when it cannot be read. */
static __always_inline bool read_pointer(__u64 address, __u64 mask, __u64* into) {
    __u64 value = 0;
    const long status = bpf_probe_read_user(&value, sizeof(value), (const void*)address);
    *into = value & mask;
    return status == 0;
}

/* Eight bytes of the frame in the scratch buffer. The mask is for the verifier: the command-line
 * program has checked the offsets. */
static __always_inline __u64 load_field(const struct snapshot_scratch* buffer, __u32 offset) {
    return *(const __u64*)&buffer->raw[offset & (ECHION_FRAME_BYTES - 1)];
}

/* Follows the chain from buffer->head.next, and leaves there where it ended. The count of frames
 * lives in memory, not in a register, so that the verifier finds every step like the one before. */
static __always_inline void walk_frames(struct snapshot_scratch* buffer,
                                        const struct echion_snapshot_layout* layout) {
    struct echion_snapshot* head = &buffer->head;
    const __u64 pointer_mask = layout->pointer_mask;
    __u64 frame = head->next;
    STORE(head->frame_count, 0);
    STORE(head->end, ECHION_SNAPSHOT_MORE);
    for (__u32 step = 0; step < ECHION_SNAPSHOT_FRAMES && frame; step++) {
        __u32 frame_bytes = layout->frame_bytes;
        if (frame_bytes > ECHION_FRAME_BYTES) {
            frame_bytes = ECHION_FRAME_BYTES;
        }
        if (bpf_probe_read_user(buffer->raw, frame_bytes, (const void*)frame)) {
            STORE(head->end, ECHION_SNAPSHOT_FAULT);
            break;
        }
        const __u32 index = LOAD(head->frame_count);
        const __u8 owner = buffer->raw[layout->frame_owner & (ECHION_FRAME_BYTES - 1)];
        if (index < ECHION_SNAPSHOT_FRAMES && owner != layout->owner_without_code) {
            struct echion_frame* out = &buffer->frames[index];
            const __u32 shift = layout->instruction_shift & 63;
            out->frame = frame;
            out->code = load_field(buffer, layout->frame_code) & pointer_mask;
            out->instruction =
                (__s64)(load_field(buffer, layout->frame_instruction) << shift) >> shift;
            STORE(head->frame_count, (__u16)(index + 1));
        }
        frame = load_field(buffer, layout->frame_previous) & pointer_mask;
    }
    if (!frame) {
        STORE(head->end, ECHION_SNAPSHOT_COMPLETE);
    }
    head->next = frame;
}

static __always_inline void take_snapshot(struct echion_thread* thread, __u32 slot, __u32 target,
                                          const struct echion_snapshot_layout* layout) {
    const __u32 zero = 0;
    struct snapshot_scratch* buffer = bpf_map_lookup_elem(&scratch, &zero);
    void* ring = bpf_map_lookup_elem(&snapshot_rings, &target);
    struct echion_thread_ref ref;
    __u64 head = 0;
    if (!layout->thread_refs || !buffer || !ring) {
        return;
    }
    const void* ref_address = (const void*)(layout->thread_refs + (__u64)slot * sizeof(ref));
    if (bpf_probe_read_user(&ref, sizeof(ref), ref_address) || !ref.thread_state ||
        ref.generation != thread->generation) {
        count(ECHION_COUNT_SNAPSHOT_UNKNOWN);
        return;
    }
    const __u64 mask = layout->pointer_mask;
    if (!read_pointer(ref.thread_state + layout->head, mask, &head) ||
        (layout->cframe_head != ECHION_ABSENT && head &&
         !read_pointer(head + layout->cframe_head, mask, &head))) {
        count(ECHION_COUNT_SNAPSHOT_FAULT);
        return;
    }
    const __u64 now = bpf_ktime_get_ns();
    buffer->head.slot = slot;
    buffer->head.generation = thread->generation;
    buffer->head.target_tid = thread->target_tid;
    buffer->head.cpu = bpf_get_smp_processor_id();
    buffer->head.time_ns = now;
    buffer->head.cpu_ns = thread->on_cpu_ns + (now - thread->on_cpu_since_ns);
    buffer->head.thread_state = ref.thread_state;
    buffer->head.next = head;
    buffer->head.reserved = 0;
    walk_frames(buffer, layout);
    if (buffer->head.end == ECHION_SNAPSHOT_FAULT) {
        count(ECHION_COUNT_SNAPSHOT_FAULT);
    }
    __u64 size_bytes =
        sizeof(buffer->head) + (__u64)buffer->head.frame_count * sizeof(struct echion_frame);
    if (size_bytes > sizeof(buffer->head) + sizeof(buffer->frames)) {
        return;
    }
    if (bpf_ringbuf_output(ring, buffer, size_bytes, BPF_RB_NO_WAKEUP)) {
        count(ECHION_COUNT_SNAPSHOT_FULL);
        return;
    }
    count(ECHION_COUNT_SNAPSHOTS);
}

#endif
