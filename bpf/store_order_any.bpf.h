/* Order of stores as other CPUs see them, on any machine: an exchange is a full barrier
 * (Documentation/bpf/standardization/instruction-set.rst, kernel/bpf: BPF_XCHG as atomic_xchg()).
 */
#ifndef ECHION_STORE_ORDER_BPF_H
#define ECHION_STORE_ORDER_BPF_H

#define STORE_BARRIER()                              \
    do {                                             \
        __u64 barrier = 0;                           \
        (void)__sync_lock_test_and_set(&barrier, 1); \
        asm volatile("" ::: "memory");               \
    } while (0)

#endif
