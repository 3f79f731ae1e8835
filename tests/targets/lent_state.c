/* A host that makes a thread state in one thread, and has another one run Python with it.
 *
 *     lent_state LIBPYTHON once|forever main|thread
 *
 * `main`, `thread`: who makes it. The main thread rests in C code meanwhile; the other one has a
 * state of its own, too, and rests in Python code.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "python_library.h"

static const char kWork[] =
    "import time\n"
    "def waits():\n"
    "    time.sleep(0.4)\n"
    "def works():\n"
    "    end = time.perf_counter() + 0.3\n"
    "    while time.perf_counter() < end:\n"
    "        pass\n";
static const char kRests[] =
    "import time\n"
    "def rests():\n"
    "    time.sleep(1.2)\n"
    "rests()\n";
static const char kOnce[] = "waits(); works(); waits()\n";
static const char kForever[] =
    "import os\n"
    "with open(os.environ['ECHION_TEST_FIFO'], 'w') as fifo:\n"
    "    fifo.write('ready %d\\n' % os.getpid())\n"
    "while True:\n"
    "    waits()\n"
    "    works()\n";

static void* lent;
static const char* calls;

static void* borrow(void* unused) {
    ((void (*)(void*))find("PyEval_AcquireThread"))(lent);
    ((int (*)(const char*))find("PyRun_SimpleString"))(kWork);
    ((int (*)(const char*))find("PyRun_SimpleString"))(calls);
    ((void (*)(void*))find("PyEval_ReleaseThread"))(lent);
    return unused;
}

/* The caller has the GIL. */
static void make_state(void) {
    void* interpreter = ((void* (*)(void))find("PyInterpreterState_Main"))();
    lent = ((void* (*)(void*))find("PyThreadState_New"))(interpreter);
}

static void* make_and_rest(void* unused) {
    pthread_t thread;
    const int state = ((int (*)(void))find("PyGILState_Ensure"))();
    make_state();
    pthread_create(&thread, NULL, borrow, NULL);
    ((int (*)(const char*))find("PyRun_SimpleString"))(kRests);
    ((void (*)(int))find("PyGILState_Release"))(state);
    pthread_join(thread, NULL);
    return unused;
}

int main(int argc, char** argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: lent_state LIBPYTHON once|forever main|thread\n");
        return 1;
    }
    open_library(argv[1]);
    ((void (*)(void))find("Py_Initialize"))();
    void* main_state = ((void* (*)(void))find("PyThreadState_Get"))();
    calls = strcmp(argv[2], "forever") == 0 ? kForever : kOnce;
    const int is_main = strcmp(argv[3], "main") == 0;
    if (is_main) make_state();
    ((void* (*)(void))find("PyEval_SaveThread"))();
    pthread_t thread;
    pthread_create(&thread, NULL, is_main ? borrow : make_and_rest, NULL);
    pthread_join(thread, NULL);
    ((void (*)(void*))find("PyEval_RestoreThread"))(main_state);
    return 0;
}
