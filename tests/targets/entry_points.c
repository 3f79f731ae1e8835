/* A host that calls two Python functions in turn, with no Python function below them, so that the
 * root of its stack changes all the time.
 *
 *     entry_points LIBPYTHON SECONDS
 *
 * At its end it prints the time in each (us).
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "python_library.h"

static const char kCode[] =
    "def spin(n):\n"
    "    for i in range(n): pass\n"
    "def first():\n"
    "    spin(600)\n"
    "def second():\n"
    "    spin(300)\n";

static double now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

int main(int argc, char** argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: entry_points LIBPYTHON SECONDS\n");
        return 1;
    }
    open_library(argv[1]);
    ((void (*)(void))find("Py_Initialize"))();
    if (((int (*)(const char*))find("PyRun_SimpleString"))(kCode) != 0) return 1;
    void* module = ((void* (*)(const char*))find("PyImport_AddModule"))("__main__");
    void* (*get)(void*, const char*) =
        (void* (*)(void*, const char*))find("PyObject_GetAttrString");
    void* (*call)(void*, void*) = (void* (*)(void*, void*))find("PyObject_CallObject");
    void (*let_go)(void*) = (void (*)(void*))find("Py_DecRef");
    void* functions[] = {get(module, "first"), get(module, "second")};
    double used_us[] = {0, 0};
    double last_us = now_us();
    const double end_us = last_us + 1e6 * atof(argv[2]);
    for (unsigned i = 0; last_us < end_us; i = !i) {
        let_go(call(functions[i], NULL));
        const double us = now_us();
        used_us[i] += us - last_us;
        last_us = us;
    }
    printf("%.0f %.0f\n", used_us[0], used_us[1]);
    return 0;
}
