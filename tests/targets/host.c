// clang-format off
/* A program that comes to Python as it runs: a web server, a host of plug-ins.

       host LIBPYTHON STEPS

   Each letter of STEPS is one:
       g l   opens the library with RTLD_GLOBAL, RTLD_LOCAL
       p     starts Python, runs run_1() (then run_2() and so on), finalises
       t     the same on another thread
       i     starts Python, runs, and leaves it as it is
       e     finalises it then
       d     closes the library
       c     uses a little CPU time in C code
       a     has each later start of Python make a thread state at once that nobody runs with
       s     starts a thread, which makes the attributes of condition variables as others than
             Python do
       k     starts a thread, which keeps the loader's lock for ever
       f     forks; the child goes on, the parent waits for it and exits with its status
       x     ends the main thread by pthread_exit(); another one goes on, and exits with 5
       w     writes "ready PID" to the file in ECHION_TEST_FIFO and waits for a byte on standard input
   At its end it exits with 6. Each run prints a line: its number, the time that run_N() was in
   busy_N() and in time.sleep(), the CPU time of busy_N() (s), which is the same on a busy machine.
   All runs have the same lines, and names of the same length. */
// clang-format on
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char* path;
static void* library;
static int runs;
static int makes_state;

static const char code[] =
    "import time\n"
    "def busy_%d(seconds):\n"
    "    end = time.thread_time() + seconds\n"
    "    while time.thread_time() < end: pass\n"
    "def run_%d():\n"
    "    began, used = time.perf_counter(), time.thread_time()\n"
    "    busy_%d(0.15)\n"
    "    slept, used = time.perf_counter(), time.thread_time() - used\n"
    "    time.sleep(0.2)\n"
    "    print(%d, slept - began, time.perf_counter() - slept, used, flush=True)\n"
    "run_%d()\n";

static void fail(const char* what) {
    fprintf(stderr, "host: %s: %s\n", what, dlerror());
    exit(1);
}

static void* find(const char* name) {
    void* function = dlsym(library, name);
    if (function == NULL) fail(name);
    return function;
}

static void finalise(void) {
    if (((int (*)(void))find("Py_FinalizeEx"))() != 0) exit(1);
}

static void run(int finalises) {
    char text[2 * sizeof(code)];
    ++runs;
    snprintf(text, sizeof(text), code, runs, runs, runs, runs, runs);
    ((void (*)(int))find("Py_InitializeEx"))(0);
    if (makes_state) {
        void* interpreter = ((void* (*)(void))find("PyInterpreterState_Main"))();
        if (((void* (*)(void*))find("PyThreadState_New"))(interpreter) == NULL) exit(1);
    }
    if (((int (*)(const char*))find("PyRun_SimpleString"))(text) != 0) exit(1);
    if (finalises) finalise();
}

static void* run_in_thread(void* argument) {
    run(1);
    return argument;
}

/* What dlerror(3) and errno say is the program's, whatever is done in between. */
static void* use_condition_attributes(void* argument) {
    pthread_condattr_t attributes;
    dlopen("/nowhere/at/all", RTLD_NOW);
    for (int i = 0; i < 1000; ++i) {
        errno = EXDEV;
        if (pthread_condattr_init(&attributes) != 0 ||
            pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) != 0 || errno != EXDEV ||
            pthread_condattr_setclock(&attributes, CLOCK_THREAD_CPUTIME_ID) != EINVAL) {
            fail("attributes of a condition variable");
        }
    }
    const char* error = dlerror();
    if (error == NULL || strstr(error, "/nowhere/at/all") == NULL) fail("dlerror() was changed");
    return argument;
}

static int keeper[2]; /* a pipe */

static int keep(struct dl_phdr_info* object, size_t size, void* argument) {
    char byte = 0;
    (void)object, (void)size, (void)argument;
    if (write(keeper[1], &byte, 1) != 1) exit(1);
    for (;;) pause();
}

static void* keep_loader_lock(void* argument) {
    dl_iterate_phdr(keep, NULL);
    return argument;
}

static void use_cpu(void) {
    struct timespec used;
    do {
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    } while (used.tv_sec == 0 && used.tv_nsec < 100000000);
}

static void wait_for_word(void) {
    const char* fifo = getenv("ECHION_TEST_FIFO");
    char byte;
    FILE* words = fopen(fifo != NULL ? fifo : "/dev/null", "w");
    if (words == NULL) exit(1);
    fprintf(words, "ready %d\n", (int)getpid());
    fclose(words);
    if (read(0, &byte, 1) != 1) exit(1);
}

static void in_thread(void* (*function)(void*), void* argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument) != 0 || pthread_join(thread, NULL) != 0)
        exit(1);
}

static void go_on(const char* steps);

static void* go_on_in_thread(void* steps) {
    go_on(steps);
    exit(5);
}

static void go_on(const char* steps) {
    for (; *steps != '\0'; ++steps) {
        pthread_t thread;
        pid_t child;
        int status;
        switch (*steps) {
            case 'g':
            case 'l':
                library = dlopen(path, RTLD_NOW | (*steps == 'g' ? RTLD_GLOBAL : RTLD_LOCAL));
                if (library == NULL) fail("dlopen");
                break;
            case 'k': {
                char byte;
                if (pipe(keeper) != 0 ||
                    pthread_create(&thread, NULL, keep_loader_lock, NULL) != 0 ||
                    read(keeper[0], &byte, 1) != 1)
                    exit(1);
                break;
            }
            case 'p':
                run(1);
                break;
            case 'i':
                run(0);
                break;
            case 'e':
                finalise();
                break;
            case 't':
                in_thread(run_in_thread, NULL);
                break;
            case 'd':
                if (dlclose(library) != 0) fail("dlclose");
                if (dlopen(path, RTLD_NOW | RTLD_NOLOAD) != NULL) fail("it is still loaded");
                break;
            case 'c':
                use_cpu();
                break;
            case 'a':
                makes_state = 1;
                break;
            case 's':
                in_thread(use_condition_attributes, NULL);
                break;
            case 'f':
                child = fork();
                if (child != 0) {
                    if (child < 0 || waitpid(child, &status, 0) != child) exit(1);
                    exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
                }
                break;
            case 'x':
                if (pthread_create(&thread, NULL, go_on_in_thread, (void*)(steps + 1)) != 0)
                    exit(1);
                pthread_exit(NULL);
            case 'w':
                wait_for_word();
                break;
            default:
                exit(2);
        }
    }
}

int main(int count, char** arguments) {
    if (count != 3) return 2;
    path = arguments[1];
    go_on(arguments[2]);
    return 6;
}
