/* What Python cannot do by itself, for tests of attaching: a library that a target loads by ctypes.
 */
#define _GNU_SOURCE
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum { PATTERN = 0x5a, ROOM_BYTES = 16384, SETXID_SIGNAL = 33 };

/* Sleeps uninterruptibly, as a vfork()'s parent does, until the descriptor's end of input. The
   child, which runs in this process's memory meanwhile, writes its number to `number_fd` first. */
int sleep_in_vfork(int fd, int number_fd) {
    char byte;
    if (vfork() == 0) {
        pid_t own = getpid();
        if (write(number_fd, &own, sizeof(own)) == sizeof(own)) {
            while (read(fd, &byte, 1) > 0) {
            }
        }
        _exit(0);
    }
    return 42;
}

/* Code in no file, where no thread may be borrowed: runs until the byte at its argument is not 0.
 */
static void (*make_nowhere(void))(volatile char*) {
    static const unsigned char loop[] = {0x80, 0x3f, 0x00, 0x74, 0xfb, 0xc3};
    void* code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) {
        abort();
    }
    memcpy(code, loop, sizeof(loop));
    return (void (*)(volatile char*))code;
}

static volatile char gate_is_open, is_blocked;

static void* block_library_signal(void* unused) {
    uint64_t set = UINT64_C(1) << (SETXID_SIGNAL - 1);
    void (*nowhere)(volatile char*) = make_nowhere();
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, sizeof(set));
    is_blocked = 1;
    nowhere(&gate_is_open);
    syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &set, NULL, sizeof(set));
    return unused;
}

static void* change_groups(void* unused) {
    gid_t groups[64];
    int count = getgroups(64, groups);
    setgroups(count < 0 ? 0 : (size_t)count, groups);
    return unused;
}

/* Two threads, one of which holds the C library's lock of the threads' stacks for as long as the
   other one does not answer its signal: until open_gate(). */
int hold_stack_lock(void) {
    pthread_t blocking, changing;
    if (pthread_create(&blocking, NULL, block_library_signal, NULL) != 0) {
        return -1;
    }
    while (!is_blocked) {
        sched_yield();
    }
    return pthread_create(&changing, NULL, change_groups, NULL);
}
void open_gate(void) { gate_is_open = 1; }

static int wait_fd;
static volatile char got;
static unsigned char* volatile handler_frame;

static void read_in_handler(int number) {
    (void)number;
    char byte = 0;
    got = syscall(SYS_read, wait_fd, &byte, 1) == 1 ? byte : '?';
}

static void note_frame(int number) {
    (void)number;
    handler_frame = __builtin_frame_address(0);
}

static int use_signal_stack(void (*handler)(int), unsigned char* memory, size_t size) {
    stack_t stack = {.ss_sp = memory, .ss_size = size};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
    return sigaltstack(&stack, NULL) != 0 || sigaction(SIGALRM, &action, NULL) != 0;
}

/* Waits for a byte in a signal handler, on an alternate stack with `room` bytes more than the
   kernel's frame takes; returns how many bytes of the memory below that stack have changed, or -1.
 */
int wait_on_signal_stack(int fd, size_t room) {
    /* AT_MINSIGSTKSZ has the registers of AMX, too, which few programs may use: a frame of this
       thread's is smaller. */
    const size_t most = getauxval(AT_MINSIGSTKSZ) + room;
    unsigned char* memory =
        mmap(NULL, ROOM_BYTES + most, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct itimerval soon = {.it_value = {0, 1000}};
    int changed = 0;
    if (memory == MAP_FAILED || use_signal_stack(note_frame, memory + ROOM_BYTES, most) != 0 ||
        raise(SIGALRM) != 0) {
        return -1;
    }
    const size_t used = (size_t)(memory + ROOM_BYTES + most - handler_frame);
    if (used + room > most ||
        use_signal_stack(read_in_handler, memory + ROOM_BYTES, used + room) != 0) {
        return -1;
    }
    memset(memory, PATTERN, ROOM_BYTES);
    wait_fd = fd;
    /* Interrupted in the program's own code. */
    setitimer(ITIMER_REAL, &soon, NULL);
    while (!got) {
    }
    for (int i = 0; i < ROOM_BYTES; i++) {
        changed += memory[i] != PATTERN;
    }
    return got == 'x' ? changed : -1;
}

static char* const* program;

static void execute(int number) {
    (void)number;
    execv(program[0], program);
    _exit(1);
}

/* Computes in code that lies in no file. After `milliseconds`, if there are any, executes a
 * program. */
void spin_nowhere(long milliseconds, char* const* arguments) {
    struct itimerval when = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000}};
    static volatile char never;
    program = arguments;
    signal(SIGALRM, execute);
    if (milliseconds > 0) {
        setitimer(ITIMER_REAL, &when, NULL);
    }
    make_nowhere()(&never);
}
