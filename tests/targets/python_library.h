/* For hosts that open Python's shared library. */
#pragma once

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

static void* library;

static void open_library(const char* path) {
    library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
}

static void* find(const char* name) {
    void* found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}
