#include "report/process_report.h"

#include <cstdio>

namespace echion::report {

std::string_view name_state(char kernel_state) {
    switch (kernel_state) {
        case 'R':
            return "running";
        case 'S':
            return "sleeping";
        case 'D':
            return "disk sleep";
        case 'T':
            return "stopped";
        case 't':
            return "stopped by a debugger";
        case 'Z':
            return "zombie";
        case 'X':
        case 'x':
            return "dead";
        case 'I':
            return "idle";
        case 'P':
            return "parked";
        default:
            return "";
    }
}

std::string_view name_state(const capture::CapturedThread& thread) {
    if (thread.kernel_state != 'R') {
        return name_state(thread.kernel_state);
    }
    switch (thread.scheduling) {
        case capture::Scheduling::kOnCpu:
            return "on CPU";
        case capture::Scheduling::kRunnable:
            return "runnable";
        default:
            return "on CPU or runnable";
    }
}

Result<ProcessReport> ProcessReport::make(const cpython::RuntimeView& view,
                                          const capture::ProcessCapture::Limits& limits) {
    auto capture = capture::ProcessCapture::make(view, limits);
    if (!capture) {
        return tl::unexpected(capture.error());
    }
    auto codes = capture::CodeTable::make(view);
    if (!codes) {
        return tl::unexpected(codes.error());
    }
    auto names = cpython::ThreadNames::make();
    if (!names) {
        return tl::unexpected(names.error());
    }
    return ProcessReport(std::move(*capture), std::move(*codes), std::move(*names));
}

void ProcessReport::read_names(MemoryReader& reader) {
    const cpython::Layout& layout = *capture_.view().layout;
    cpython::ObjectReader objects(reader, layout);
    for (const cpython::InterpreterHead& interpreter : capture_.interpreters()) {
        const auto modules =
            reader.read_pointer(interpreter.interpreter + cpython::at(layout.interpreter.modules));
        if (modules && *modules) {
            (void)names_.scan(objects, interpreter.id, *modules, cpython::ThreadNames::kMaxThreads);
        }
    }
}

std::string_view ProcessReport::find_name(const capture::CapturedThread& thread) {
    if (thread.is_lent) {
        return "<unknown>";
    }
    if (const auto name = names_.find(thread.interpreter, thread.thread_id); !name.empty()) {
        return name;
    }
    if (thread.is_main) {
        return "MainThread";
    }
    const int length = std::snprintf(made_up_name_, sizeof(made_up_name_), "thread-%u",
                                     static_cast<unsigned>(thread.native_id));
    return {made_up_name_, static_cast<std::size_t>(length)};
}

Status ProcessReport::write(MemoryReader& reader, SameCpu& same_cpu, pid_t pid,
                            const ReportHeader& header, ReportWriter& writer,
                            FunctionRef<bool()> may_go_on) {
    if (auto status = capture_.list_threads(reader, pid); !status) {
        return status;
    }
    codes_.clear();
    names_.clear();
    read_names(reader);
    writer.begin(header);
    const std::size_t count = capture_.threads().size();
    bool goes_on = may_go_on();
    for (std::size_t from = 0; from < count && goes_on;) {
        const std::size_t end = capture_.read_stacks(reader, same_cpu, from);
        capture_.settle_scheduling(same_cpu, from, end);
        // Names are read when all stacks have been copied: these should be of one moment.
        goes_on = may_go_on();
        for (; from < end && goes_on; ++from) {
            const capture::CapturedThread& thread = capture_.threads()[from];
            if (thread.is_gone) {
                continue;
            }
            writer.begin_thread(thread, find_name(thread));
            const auto frames = capture_.frames(thread);
            for (std::size_t i = frames.size(); i-- > 0 && goes_on;) {
                goes_on = may_go_on();
                const capture::SourceFrame frame = codes_.describe(reader, frames[i]);
                if (!frame.is_trampoline) {
                    writer.frame(frame);
                }
            }
            writer.end_thread();
        }
    }
    writer.end(capture_.is_cut() || !goes_on);
    return {};
}

}  // namespace echion::report
