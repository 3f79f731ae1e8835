/* Threads made in C, for tests/targets/threads.py. Compiled by the test without Python's headers:
 * the few functions of its C API that are used here have had these types since 3.2. */
#include <pthread.h>
#include <semaphore.h>
#include <stddef.h>
#include <unistd.h>

int PyGILState_Ensure(void);
void PyGILState_Release(int);
void* PyEval_SaveThread(void);
void PyEval_RestoreThread(void*);

static sem_t wake;
static pthread_t with_state, without_state;

/* Has a thread state, never a Python frame. */
static void* run_with_state(void* unused) {
    int held = PyGILState_Ensure();
    void* saved = PyEval_SaveThread();
    sem_wait(&wake);
    PyEval_RestoreThread(saved);
    PyGILState_Release(held);
    return unused;
}

/* Python knows nothing of it. */
static void* run_without_state(void* unused) {
    sem_wait(&wake);
    return unused;
}

int start_c_threads(void) {
    sem_init(&wake, 0, 0);
    return pthread_create(&with_state, NULL, run_with_state, NULL) |
           pthread_create(&without_state, NULL, run_without_state, NULL);
}

/* Call without the interpreter's lock (ctypes.CDLL lets go of it). */
int join_c_threads(void) {
    sem_post(&wake);
    sem_post(&wake);
    return pthread_join(with_state, NULL) | pthread_join(without_state, NULL);
}

static struct {
    void (*call)(void);
    int count;
    unsigned pause_us;
} calls;

/* Each call from a thread without a thread state makes one, and ends it. */
static void* run_calls(void* unused) {
    for (int i = 0; i < calls.count; ++i) {
        usleep(calls.pause_us);
        calls.call();
    }
    return unused;
}

int call_from_c_thread(void (*call)(void), int count, unsigned pause_us) {
    pthread_t thread;
    calls.call = call;
    calls.count = count;
    calls.pause_us = pause_us;
    return pthread_create(&thread, NULL, run_calls, NULL) | pthread_join(thread, NULL);
}
