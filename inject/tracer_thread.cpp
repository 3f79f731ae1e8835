#include "inject/tracer_thread.h"

#include <pthread.h>
#include <signal.h>

namespace echion::inject {
namespace {

void* run(void* work) {
    (*static_cast<FunctionRef<void()>*>(work))();
    return nullptr;
}

}  // namespace

bool run_as_tracer(FunctionRef<void()> work) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    const bool is_made = pthread_create(&thread, nullptr, run, &work) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return is_made && pthread_join(thread, nullptr) == 0;
}

}  // namespace echion::inject
