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

/* Where in window[] the copy of a single frame is: right behind it. */
#define SINGLE ECHION_WINDOW_BYTES

/* Eight bytes of the frame at this place of window[]. The masks are for the verifier: the
 * command-line program has checked the offsets. */
static __always_inline __u64 load_field(const struct snapshot_scratch* buffer, __u32 place,
                                        __u32 offset) {
    return *(const __u64*)&buffer->window[place + (offset & (ECHION_FRAME_BYTES - 1))];
}

/* Copies the part of the data stack that ends at `end`, as far down as there is room. */
static __always_inline bool copy_window(struct snapshot_scratch* buffer, __u64 end) {
    __u64 bytes = end - buffer->stack_base;
    if (bytes > ECHION_WINDOW_BYTES) {
        bytes = ECHION_WINDOW_BYTES;
    }
    buffer->window_base = end - bytes;
    buffer->window_bytes = 0;
    if (bpf_probe_read_user(buffer->window, bytes, (const void*)(end - bytes))) {
        return false;
    }
    buffer->window_bytes = bytes;
    return true;
}

/* Brings the frame into the scratch buffer, unless it is there. Its place in window[], or a number
 * above SINGLE if it cannot be read. */
static __always_inline __u32 find_frame(struct snapshot_scratch* buffer, __u64 frame,
                                        __u32 frame_bytes) {
    __u64 offset = frame - buffer->window_base;
    if (buffer->window_bytes && frame >= buffer->stack_base && frame < buffer->window_base) {
        /* Farther down in the same chunk. */
        if (!copy_window(buffer, frame + frame_bytes)) {
            return SINGLE + 1;
        }
        offset = frame - buffer->window_base;
    }
    if (offset < ECHION_WINDOW_BYTES && offset + frame_bytes <= buffer->window_bytes) {
        return (__u32)offset;
    }
    if (frame_bytes > ECHION_FRAME_BYTES) {
        frame_bytes = ECHION_FRAME_BYTES;
    }
    return bpf_probe_read_user(buffer->single, frame_bytes, (const void*)frame) ? SINGLE + 1
                                                                                : SINGLE;
}

/* From the copy of the bytecode that a frame runs (0: the code object's own) to the same place in
 * the code object; false where the instruction is outside of that copy, or it cannot be read. See
 * FrameWalker::move_to_code(). */
static __always_inline bool move_to_code(const struct echion_snapshot_layout* layout, __u32 index,
                                         struct echion_frame* frame) {
    const __u64 code = frame->code & ~(__u64)layout->code_tag;
    const __u64 own = code + layout->code_adaptive;
    __u64 bytecode = own;
    __u64 units = 0;
    if (!read_pointer(code + layout->code_size, ~0ULL, &units) || units > ECHION_MAX_CODE_UNITS) {
        return false;
    }
    if (index) {
        __u64 array = 0;
        __u64 count = 0;
        if (!read_pointer(code + layout->code_tlbc, ~0ULL, &array) ||
            !read_pointer(array, ~0ULL, &count) || index >= count ||
            !read_pointer(array + layout->tlbc_entries + 8ULL * index, ~0ULL, &bytecode) ||
            !bytecode) {
            return false;
        }
    }
    /* Before the first instruction stands the one before it. */
    const __u64 from_before = frame->instruction - bytecode + 2;
    if (from_before >= 2 * units + 2) {
        return false;
    }
    frame->instruction = own + from_before - 2;
    return true;
}

struct walk {
    struct snapshot_scratch* buffer;
    const struct echion_snapshot_layout* layout;
};

/* One step of the walk, from the frame at head.next to the one before it. False where it ends. What
 * changes lives in memory, not in registers, so that the verifier finds every step like the one
 * before. */
static __always_inline bool walk_frame(const struct walk* walk) {
    struct snapshot_scratch* buffer = walk->buffer;
    const struct echion_snapshot_layout* layout = walk->layout;
    struct echion_snapshot* head = &buffer->head;
    const __u64 frame = LOAD(head->next);
    if (!frame) {
        return false;
    }
    const __u32 place = find_frame(buffer, frame, layout->frame_bytes);
    if (place > SINGLE) {
        STORE(head->end, ECHION_SNAPSHOT_FAULT);
        return false;
    }
    const __u32 index = LOAD(head->frame_count);
    const __u8 owner = buffer->window[place + (layout->frame_owner & (ECHION_FRAME_BYTES - 1))];
    if (index < ECHION_SNAPSHOT_FRAMES && owner < layout->owner_without_code) {
        struct echion_frame* out = &buffer->frames[index];
        const __u32 shift = layout->instruction_shift & 63;
        out->frame = frame;
        out->code = load_field(buffer, place, layout->frame_code) & layout->pointer_mask;
        out->instruction =
            (__s64)(load_field(buffer, place, layout->frame_instruction) << shift) >> shift;
        if (layout->frame_tlbc) {
            const __u32 tlbc = (__u32)load_field(buffer, place, layout->frame_tlbc);
            if (!move_to_code(layout, tlbc, out)) {
                STORE(head->end, ECHION_SNAPSHOT_FAULT);
                return false;
            }
        }
        STORE(head->frame_count, (__u16)(index + 1));
    }
    STORE(head->next, load_field(buffer, place, layout->frame_previous) & layout->pointer_mask);
    return true;
}

static long walk_frame_in_loop(__u32 step, struct walk* walk) { return !walk_frame(walk); }

/* Follows the chain from buffer->head.next, and leaves there where it ended. */
static __always_inline void walk_frames(struct walk* walk, bool has_loop_helper) {
    struct echion_snapshot* head = &walk->buffer->head;
    STORE(head->frame_count, 0);
    STORE(head->end, ECHION_SNAPSHOT_MORE);
    if (has_loop_helper) {
        bpf_loop(ECHION_SNAPSHOT_FRAMES, walk_frame_in_loop, walk, 0);
    } else {
        for (__u32 step = 0; step < ECHION_SNAPSHOT_FRAMES && walk_frame(walk); step++) {
        }
    }
    if (!LOAD(head->next)) {
        STORE(head->end, ECHION_SNAPSHOT_COMPLETE);
    }
}

static __always_inline __u64 load_state(const struct snapshot_scratch* buffer, __u32 offset) {
    return *(const __u64*)&buffer->thread_state[offset & (ECHION_THREAD_STATE_BYTES - 1)];
}

/* Copies what counts of the thread state, and the top of the data stack. False when the first
 * cannot be read; without the second the frames are read one by one. */
static __always_inline bool read_heads(struct snapshot_scratch* buffer,
                                       const struct echion_snapshot_layout* layout,
                                       __u64 thread_state, __u64* newest_frame) {
    const __u64 mask = layout->pointer_mask;
    __u32 state_bytes = layout->state_bytes;
    if (state_bytes > ECHION_THREAD_STATE_BYTES) {
        state_bytes = ECHION_THREAD_STATE_BYTES;
    }
    buffer->window_base = 0;
    buffer->window_bytes = 0;
    buffer->stack_base = 0;
    if (bpf_probe_read_user(buffer->thread_state, state_bytes,
                            (const void*)(thread_state + layout->state_from))) {
        return false;
    }
    __u64 head = load_state(buffer, layout->head) & mask;
    if (layout->cframe_head != ECHION_ABSENT && head &&
        !read_pointer(head + layout->cframe_head, mask, &head)) {
        return false;
    }
    *newest_frame = head;
    if (head && layout->stack_chunk != ECHION_ABSENT) {
        const __u64 chunk = load_state(buffer, layout->stack_chunk) & mask;
        const __u64 top = load_state(buffer, layout->stack_top) & mask;
        if (chunk && top > chunk + layout->chunk_data) {
            buffer->stack_base = chunk + layout->chunk_data;
            copy_window(buffer, top);
        }
    }
    return true;
}

/* True if it is in the ring. */
static __always_inline bool take_snapshot(struct echion_thread* thread, __u32 slot, __u32 target,
                                          const struct echion_snapshot_layout* layout,
                                          bool has_loop_helper) {
    const __u32 zero = 0;
    struct snapshot_scratch* buffer = bpf_map_lookup_elem(&scratch, &zero);
    void* ring = bpf_map_lookup_elem(&snapshot_rings, &target);
    struct echion_thread_ref ref;
    __u64 head = 0;
    if (!layout->thread_refs || !buffer || !ring) {
        return false;
    }
    const void* ref_address = (const void*)(layout->thread_refs + (__u64)slot * sizeof(ref));
    if (bpf_probe_read_user(&ref, sizeof(ref), ref_address) || !ref.thread_state ||
        ref.generation != thread->generation) {
        count(ECHION_COUNT_SNAPSHOT_UNKNOWN);
        return false;
    }
    if (!read_heads(buffer, layout, ref.thread_state, &head)) {
        count(ECHION_COUNT_SNAPSHOT_FAULT);
        return false;
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
    struct walk walk = {buffer, layout};
    walk_frames(&walk, has_loop_helper);
    if (buffer->head.end == ECHION_SNAPSHOT_FAULT) {
        count(ECHION_COUNT_SNAPSHOT_FAULT);
    }
    __u64 size_bytes =
        sizeof(buffer->head) + (__u64)buffer->head.frame_count * sizeof(struct echion_frame);
    if (size_bytes > sizeof(buffer->head) + sizeof(buffer->frames)) {
        return false;
    }
    if (bpf_ringbuf_output(ring, buffer, size_bytes, BPF_RB_NO_WAKEUP)) {
        count(ECHION_COUNT_SNAPSHOT_FULL);
        return false;
    }
    count(ECHION_COUNT_SNAPSHOTS);
    return true;
}

#endif
