#include "report/process_report.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace echion::report {
namespace {

/// Whether the frames that a task has on the thread's stack are known.
bool is_on_stack(const capture::CapturedThread& thread, const capture::CapturedTask& task) {
    return task.state == capture::TaskState::kRunning &&
           thread.tasks_consistency == thread.consistency &&
           task.first_frame + task.frame_count <= thread.frame_count;
}

}  // namespace

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

/// False when it may not go on.
bool ProcessReport::write_frames(MemoryReader& reader, const capture::CapturedThread& thread,
                                 ReportWriter& writer, FunctionRef<bool()> may_go_on) {
    const capture::TaskStore& tasks = capture_.tasks();
    const auto frames = capture_.frames(thread);
    bool goes_on =
        thread.greenlet_count == 0 ||
        greenlet_tree_.build(tasks, thread.first_greenlet, thread.greenlet_count).has_value();
    for (std::size_t i = frames.size(); i-- > 0 && goes_on;) {
        goes_on = may_go_on();
        for (std::size_t j = 0; j < thread.task_count; ++j) {
            const capture::CapturedTask& task = tasks.task(thread.first_task + j);
            if (is_on_stack(thread, task) && task.first_frame + task.frame_count == i + 1) {
                writer.task_begins(tasks.text(task.name));
            }
        }
        for (std::size_t j = 0; j < thread.greenlet_count && i + 1 == frames.size(); ++j) {
            const std::size_t index = thread.first_greenlet + j;
            const capture::CapturedTask& greenlet = tasks.task(index);
            if (is_on_stack(thread, greenlet) &&
                greenlet.kind != capture::TaskKind::kMainGreenlet) {
                const std::uint32_t id = greenlet_tree_.id(static_cast<std::uint32_t>(index));
                writer.greenlet_begins(label_of(greenlet, id, label_));
            }
        }
        const capture::SourceFrame frame = codes_.describe(reader, frames[i]);
        if (!frame.is_trampoline) {
            writer.frame(frame);
        }
    }
    writer.end_frames();
    return goes_on;
}

std::span<const cpython::RawFrame> ProcessReport::frames_of(
    const capture::CapturedThread& thread, const capture::CapturedTask& task) const {
    if (task.state != capture::TaskState::kRunning) {
        return capture_.tasks().frames(task);
    }
    return is_on_stack(thread, task)
               ? capture_.frames(thread).subspan(task.first_frame, task.frame_count)
               : std::span<const cpython::RawFrame>();
}

std::string_view ProcessReport::label_of(const capture::CapturedTask& greenlet, std::uint32_t id,
                                         std::span<char> into) const {
    const capture::TaskStore& tasks = capture_.tasks();
    if (greenlet.kind == capture::TaskKind::kMainGreenlet) {
        return "main greenlet";
    }
    if (greenlet.name.size_bytes != 0) {
        return tasks.text(greenlet.name);
    }
    const std::string_view type = tasks.text(greenlet.type_name);
    const int length =
        std::snprintf(into.data(), into.size(), "%.*s#%u", static_cast<int>(type.size()),
                      type.data(), static_cast<unsigned>(id));
    return {into.data(), std::min(static_cast<std::size_t>(length), into.size() - 1)};
}

bool ProcessReport::write_tree(MemoryReader& reader, const capture::CapturedThread& thread,
                               TaskTree& tree, ReportWriter& writer,
                               FunctionRef<bool()> may_go_on) {
    const capture::TaskStore& tasks = capture_.tasks();
    bool goes_on = true;
    tree.visit([&](const TaskTree::Node& node) {
        const capture::CapturedTask& task = tasks.task(node.task);
        const bool is_greenlet = task.kind != capture::TaskKind::kTask;
        const auto frames = frames_of(thread, task);
        std::string_view coroutine = tasks.text(task.function);
        if (!frames.empty()) {
            // It has to outlive the frames' texts.
            coroutine = codes_.describe(reader, frames.back()).function;
            const std::size_t size = std::min(coroutine.size(), sizeof(coroutine_name_));
            std::memcpy(coroutine_name_, coroutine.data(), size);
            coroutine = {coroutine_name_, size};
        }
        const auto waiters = tasks.waiters(task);
        std::string_view first_child;
        if (!is_greenlet && node.children != 0) {
            first_child = tasks.text(tasks.task(tree.first_child(node.task)).name);
        } else if (is_greenlet && task.waits_for != capture::CapturedTask::kNone) {
            first_child =
                label_of(tasks.task(task.waits_for), tree.id(task.waits_for), child_label_);
        }
        const TaskLine line{
            .task = task,
            .node = node,
            .name = tasks.text(task.name),
            .coroutine = coroutine,
            .awaited = tasks.text(task.waits_for_type),
            .first_child = first_child,
            .type = tasks.text(task.type_name),
            .label = is_greenlet ? label_of(task, node.id, label_) : std::string_view(),
            .parent = task.parent != capture::CapturedTask::kNone ? tree.id(task.parent) : 0};
        writer.begin_task(line, waiters.size(), [&](std::size_t i) { return tree.id(waiters[i]); });
        for (std::size_t i = frames.size(); i-- > 0 && goes_on && !node.is_repeated;) {
            goes_on = may_go_on();
            const capture::SourceFrame frame = codes_.describe(reader, frames[i]);
            if (!frame.is_trampoline) {
                writer.task_frame(frame);
            }
        }
        writer.end_task();
        goes_on = goes_on && may_go_on();
        return goes_on;
    });
    writer.end_tasks();
    return goes_on;
}

bool ProcessReport::write_tasks(MemoryReader& reader, const capture::CapturedThread& thread,
                                ReportWriter& writer, FunctionRef<bool()> may_go_on) {
    writer.begin_tasks(thread);
    const bool is_built =
        tree_.build(capture_.tasks(), thread.first_task, thread.task_count).has_value();
    return write_tree(reader, thread, tree_, writer, may_go_on) && is_built;
}

bool ProcessReport::write_greenlets(MemoryReader& reader, const capture::CapturedThread& thread,
                                    ReportWriter& writer, FunctionRef<bool()> may_go_on) {
    writer.begin_greenlets(thread);
    return write_tree(reader, thread, greenlet_tree_, writer, may_go_on);
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
            goes_on = write_frames(reader, thread, writer, may_go_on);
            goes_on =
                goes_on && (!thread.has_tasks || write_tasks(reader, thread, writer, may_go_on));
            goes_on = goes_on && (thread.greenlet_count == 0 ||
                                  write_greenlets(reader, thread, writer, may_go_on));
            writer.end_thread();
        }
    }
    writer.tell_greenlets(capture_.greenlets());
    writer.end(capture_.is_cut() || !goes_on);
    return {};
}

}  // namespace echion::report
