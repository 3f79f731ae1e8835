/* Order of stores as other CPUs see them. On x86 they see a CPU's stores in its order: it is enough
 * that the compiler keeps it. */
#ifndef ECHION_STORE_ORDER_BPF_H
#define ECHION_STORE_ORDER_BPF_H

#define STORE_BARRIER() asm volatile("" ::: "memory")

#endif
