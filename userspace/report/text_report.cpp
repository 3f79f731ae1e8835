#include "report/text_report.h"

namespace echion::report {
namespace {

constexpr std::string_view kThreadIndent = "    ";
constexpr std::string_view kFrameIndent = "        ";

}  // namespace

Palette Palette::colours() {
    Palette palette;
    palette.title = "\x1b[1m";
    palette.thread = "\x1b[1;36m";
    palette.detail = "\x1b[2m";
    palette.warning = "\x1b[31m";
    palette.function = "\x1b[33m";
    palette.file = "\x1b[36m";
    palette.line = "\x1b[32m";
    palette.plain = "\x1b[0m";
    return palette;
}

void put_thread_details(TextSink& sink, const capture::CapturedThread& thread) {
    std::string_view separator;
    const auto put = [&](std::string_view text) {
        if (!text.empty()) {
            sink.put(separator);
            sink.put(text);
            separator = ", ";
        }
    };
    if (thread.native_id != 0) {
        put("thread ");
        sink.put_number(thread.tid != 0 ? thread.tid : static_cast<std::int64_t>(thread.native_id));
        if (thread.tid != 0 && static_cast<std::uint32_t>(thread.tid) != thread.native_id) {
            sink.put(" (own id ");
            sink.put_number(thread.native_id);
            sink.put(')');
        }
    }
    if (thread.interpreter != 0) {
        put("interpreter ");
        sink.put_number(thread.interpreter);
    }
    put(thread.native_id != 0 && thread.tid == 0 ? "ended" : name_state(thread));
    if (thread.gil_role == capture::GilRole::kHolds) {
        put("holding the GIL");
    } else if (thread.gil_role == capture::GilRole::kWaits) {
        put("waiting for the GIL");
    }
}

void put_frame(TextSink& sink, const Palette& palette, const capture::SourceFrame& frame) {
    if (frame.function.empty() && frame.file.empty()) {
        sink.put("(a frame that cannot be read)");
        return;
    }
    sink.put(palette.function);
    sink.put_printable(frame.function);
    sink.put(palette.plain);
    sink.put(" (");
    sink.put(palette.file);
    sink.put_printable(frame.file);
    sink.put(palette.plain);
    sink.put(':');
    sink.put(palette.line);
    if (frame.line > 0) {
        sink.put_number(frame.line);
    } else {
        sink.put('?');
    }
    sink.put(palette.plain);
    sink.put(')');
}

void put_process(TextSink& sink, const ReportHeader& header) {
    sink.put("Process ");
    sink.put_number(header.pid);
    sink.put(" (");
    sink.put_printable(header.command);
    sink.put("), Python ");
    sink.put_number(header.version.major);
    sink.put('.');
    sink.put_number(header.version.minor);
    sink.put('.');
    sink.put_number(header.version.micro);
}

void TextReport::begin(const ReportHeader& header) {
    sink_.put(palette_.title);
    put_process(sink_, header);
    sink_.put(palette_.plain);
    sink_.put('\n');
}

void TextReport::begin_thread(const capture::CapturedThread& thread, std::string_view name) {
    sink_.put('\n');
    sink_.put(kThreadIndent);
    sink_.put("🧵 ");
    sink_.put(palette_.thread);
    sink_.put_printable(name);
    sink_.put(palette_.plain);
    sink_.put(": ");
    sink_.put(palette_.detail);
    put_thread_details(sink_, thread);
    sink_.put(palette_.plain);
    sink_.put('\n');
    has_frames_ = false;
    if (thread.consistency == capture::Consistency::kTorn) {
        note("the stack changed while it was read: frames may not belong together");
    }
    if (thread.is_truncated) {
        note("more frames above these");
    } else if (thread.is_broken) {
        note("the frames above these could not be read");
    }
}

void TextReport::note(std::string_view text) {
    sink_.put(kFrameIndent);
    sink_.put(palette_.warning);
    sink_.put('(');
    sink_.put(text);
    sink_.put(')');
    sink_.put(palette_.plain);
    sink_.put('\n');
}

void TextReport::frame(const capture::SourceFrame& frame) {
    sink_.put(kFrameIndent);
    put_frame(sink_, palette_, frame);
    sink_.put('\n');
    has_frames_ = true;
}

void TextReport::put_begin(std::string_view what, std::string_view name) {
    sink_.put(kFrameIndent);
    sink_.put(palette_.detail);
    sink_.put(what);
    sink_.put_printable(name);
    sink_.put(':');
    sink_.put(palette_.plain);
    sink_.put('\n');
}

void TextReport::end_frames() {
    if (!has_frames_) {
        sink_.put(kFrameIndent);
        sink_.put("(no Python frames)\n");
    }
}

void TextReport::begin_group(std::size_t count, std::string_view one, std::string_view more,
                             std::string_view whose, bool is_torn, bool is_cut) {
    sink_.put(kFrameIndent);
    sink_.put(palette_.title);
    sink_.put_number(static_cast<std::int64_t>(count));
    sink_.put(count == 1 ? one : more);
    sink_.put(whose);
    sink_.put(palette_.plain);
    sink_.put(count == 0 ? "\n" : ":\n");
    if (is_torn) {
        note("they changed while they were read: their frames may not belong together");
    }
    if (is_cut) {
        note("there may be more, or others that wait for these");
    }
}

void TextReport::begin_tasks(const capture::CapturedThread& thread) {
    begin_group(thread.task_count, " task", " tasks", " of its event loop",
                thread.tasks_consistency == capture::Consistency::kTorn, thread.are_tasks_cut);
}

void TextReport::begin_greenlets(const capture::CapturedThread& thread) {
    begin_group(thread.greenlet_count, " greenlet", " greenlets", "",
                thread.tasks_consistency == capture::Consistency::kTorn, thread.are_greenlets_cut);
}

void TextReport::indent_task(std::size_t depth) {
    constexpr std::string_view kStep = "    ";
    sink_.put(kFrameIndent);
    for (std::size_t i = 0; i < depth; ++i) {
        sink_.put(kStep);
    }
}

void TextReport::put_state(const TaskLine& line) {
    switch (line.task.state) {
        case capture::TaskState::kRunning:
            sink_.put("running");
            return;
        case capture::TaskState::kElsewhere:
            sink_.put("running, its frames could not be found");
            return;
        case capture::TaskState::kNotStarted:
            sink_.put("not started yet");
            return;
        case capture::TaskState::kFinished:
            sink_.put("ending");
            return;
        case capture::TaskState::kSuspended:
            put_awaited(line);
            return;
    }
}

void TextReport::put_awaited(const TaskLine& line) {
    // Below a greenlet also those stand that it is but the parent of.
    const bool is_greenlet = line.task.kind != capture::TaskKind::kTask;
    const std::size_t count = is_greenlet ? line.task.waits_for_count : line.node.children;
    if (count == 1) {
        sink_.put("waits for ");
        sink_.put_printable(line.first_child);
    } else if (count > 1) {
        sink_.put("waits for ");
        sink_.put_number(static_cast<std::int64_t>(count));
        sink_.put(is_greenlet ? " greenlets" : " tasks");
    } else if (!line.awaited.empty()) {
        sink_.put("waits for a ");
        sink_.put_printable(line.awaited);
    } else if (is_greenlet) {
        sink_.put("suspended");
    } else {
        sink_.put("about to run");
    }
}

void TextReport::begin_task(const TaskLine& line, std::size_t /*waiter_count*/,
                            FunctionRef<std::uint32_t(std::size_t)> /*get_waiter*/) {
    task_depth_ = line.node.depth;
    is_running_ = line.task.state == capture::TaskState::kRunning;
    indent_task(task_depth_);
    sink_.put(palette_.thread);
    const std::string_view name = line.label.empty() ? line.name : line.label;
    sink_.put_printable(name.empty() ? std::string_view("<unknown>") : name);
    sink_.put(palette_.plain);
    if (!line.coroutine.empty()) {
        sink_.put(" (");
        sink_.put_printable(line.coroutine);
        sink_.put(')');
    }
    sink_.put(": ");
    sink_.put(palette_.detail);
    if (line.node.is_repeated) {
        sink_.put("see above");
    } else {
        put_state(line);
    }
    sink_.put(palette_.plain);
    sink_.put('\n');
    if (!line.node.is_repeated && (line.task.is_broken || line.task.is_truncated)) {
        indent_task(task_depth_ + 1);
        sink_.put(palette_.warning);
        sink_.put(line.task.is_broken ? "(the frames below these could not be read)"
                                      : "(more frames below these)");
        sink_.put(palette_.plain);
        sink_.put('\n');
    }
}

void TextReport::task_frame(const capture::SourceFrame& frame) {
    if (is_running_) {
        return;  // they are the thread's last ones
    }
    indent_task(task_depth_ + 1);
    put_frame(sink_, palette_, frame);
    sink_.put('\n');
}

void TextReport::note_of_process(std::string_view text, std::size_t count) {
    sink_.put("\n");
    sink_.put(kThreadIndent);
    sink_.put(palette_.warning);
    sink_.put('(');
    sink_.put(text);
    if (count != 0) {
        sink_.put(": ");
        sink_.put_number(static_cast<std::int64_t>(count));
    }
    sink_.put(')');
    sink_.put(palette_.plain);
    sink_.put('\n');
}

void TextReport::end(bool is_cut) {
    if (is_cut) {
        note_of_process("there are more threads, which could not be listed");
    }
    if (found_.is_there && !found_.is_whole) {
        note_of_process("there may be more greenlets, which were not found");
    }
    if (found_.unreadable != 0) {
        note_of_process("greenlets that could not be read, as their structures are not known",
                        found_.unreadable);
    }
    if (found_.unplaced != 0) {
        note_of_process("greenlets that have not started, and whose thread nothing shows",
                        found_.unplaced);
    }
    sink_.put('\n');
    sink_.flush();
}

}  // namespace echion::report
