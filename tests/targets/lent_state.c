/* A host that makes a thread state in its main thread, and has another thread run Python with it.
 *
 *     lent_state LIBPYTHON [forever]
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const char kWork[] =
    "import time\n"
    "def waits():\n"
    "    time.sleep(0.4)\n"
    "def works():\n"
    "    end = time.perf_counter() + 0.3\n"
    "    while time.perf_counter() < end:\n"
    "        pass\n";
static const char kOnce[] = "waits(); works(); waits()\n";
static const char kForever[] =
    "import os\n"
    "with open(os.environ['ECHION_TEST_FIFO'], 'w') as fifo:\n"
    "    fifo.write('ready %d\\n' % os.getpid())\n"
    "while True:\n"
    "    waits()\n"
    "    works()\n";

static void* library;
static void* lent;

static void* find(const char* name) {
    void* found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

static void* borrower(void* calls) {
    ((void (*)(void*))find("PyEval_AcquireThread"))(lent);
    ((int (*)(const char*))find("PyRun_SimpleString"))(kWork);
    ((int (*)(const char*))find("PyRun_SimpleString"))(calls);
    ((void (*)(void*))find("PyEval_ReleaseThread"))(lent);
    return NULL;
}

int main(int argc, char** argv) {
    library = argc >= 2 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
    if (library == NULL) {
        fprintf(stderr, "usage: lent_state LIBPYTHON [forever]\n");
        return 1;
    }
    ((void (*)(void))find("Py_Initialize"))();
    void* main_state = ((void* (*)(void))find("PyThreadState_Get"))();
    void* interpreter = ((void* (*)(void))find("PyInterpreterState_Main"))();
    lent = ((void* (*)(void*))find("PyThreadState_New"))(interpreter);
    ((void* (*)(void))find("PyEval_SaveThread"))();
    pthread_t thread;
    pthread_create(&thread, NULL, borrower, (void*)(argc > 2 ? kForever : kOnce));
    pthread_join(thread, NULL);
    ((void (*)(void*))find("PyEval_RestoreThread"))(main_state);
    return 0;
}
