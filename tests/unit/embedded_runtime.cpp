// Two libraries: one that looks like CPython's, as it exports a runtime (EXPORTS), and one that
// does not.

#define EXPORTED __attribute__((visibility("default")))

extern "C" {
#if EXPORTS
EXPORTED int _PyRuntime[16] = {1};
#endif
EXPORTED int library_data[16] = {1};
EXPORTED int library_function() { return library_data[0]; }
}
