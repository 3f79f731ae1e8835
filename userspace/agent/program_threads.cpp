#include "agent/program_threads.h"

#include "control/control.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/program_image.h"

namespace echion::agent {

bool ProgramThreads::is_over() {
    const OtherThreads others = look_at_other_threads(kOwnProcess, control::kAgentThreads);
    was_first_outlived_ = was_first_outlived_ || others == OtherThreads::kWithoutFirst;
    return others == OtherThreads::kNone;
}

int ProgramThreads::read_status() const {
    return was_first_outlived_ ? 0 : read_first_thread_status(kOwnProcess);
}

}  // namespace echion::agent
