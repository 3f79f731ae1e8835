// Two libraries: one that looks like CPython's, as it exports a runtime (EXPORTS), and one that
// does not.

#if EXPORTS
extern "C" __attribute__((visibility("default"))) int _PyRuntime[16] = {1};
#endif

extern "C" __attribute__((visibility("default"))) int library_data[16] = {1};
extern "C" __attribute__((visibility("default"))) int library_function() { return library_data[0]; }
