#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/function_ref.h"
#include "capture/code_table.h"
#include "capture/process_capture.h"
#include "cpython/thread_names.h"
#include "memory/reader.h"
#include "platform/same_cpu.h"
#include "report/task_tree.h"

namespace echion::report {

/// What a report says of the process.
struct ReportHeader {
    pid_t pid = 0;      ///< as we see it
    pid_t own_pid = 0;  ///< as it sees itself
    std::string_view command;
    cpython::Version version;
};

/// What a report says of a task or a greenlet.
struct TaskLine {
    const capture::CapturedTask& task;
    const TaskTree::Node& node;
    std::string_view name;
    std::string_view coroutine;    ///< its function's name, also of a greenlet; empty: unknown
    std::string_view awaited;      ///< the type of what it waits for; empty: of nothing
    std::string_view first_child;  ///< the name of the first task that it waits for
    std::string_view type = {};    ///< of a greenlet: its type's name
    std::string_view label = {};   ///< likewise: what it is called in a text
    std::uint32_t parent = 0;      ///< likewise: id of its parent; 0: not among these
};

/// Writes a report down in some form. The calls come in the order of the text: begin, then for each
/// thread begin_thread, its frames with the most recent call last, end_frames, its tasks,
/// end_thread, then end. Of a thread with tasks: begin_tasks, for each place in the tree
/// begin_task, the task's frames, end_task, and at last end_tasks. A place that is repeated has no
/// frames. Of a thread with greenlets: the same with begin_greenlets. tell_greenlets comes before
/// end. Who does not tell of tasks leaves these calls out.
class ReportWriter {
  public:
    virtual void begin(const ReportHeader& header) = 0;
    virtual void begin_thread(const capture::CapturedThread& thread, std::string_view name) = 0;
    /// The frames that follow, up to the most recent, are those of a task that runs.
    virtual void task_begins(std::string_view name) { (void)name; }
    /// Likewise of a greenlet, whose name this is.
    virtual void greenlet_begins(std::string_view label) { (void)label; }
    virtual void frame(const capture::SourceFrame& frame) = 0;
    virtual void end_frames() {}
    virtual void begin_tasks(const capture::CapturedThread& thread) { (void)thread; }
    virtual void begin_greenlets(const capture::CapturedThread& thread) { (void)thread; }
    /// `waiters`: ids of the tasks that wait for it; asked for with get_waiter(0 … count - 1).
    virtual void begin_task(const TaskLine& line, std::size_t waiter_count,
                            FunctionRef<std::uint32_t(std::size_t)> get_waiter) {
        (void)line, (void)waiter_count, (void)get_waiter;
    }
    virtual void task_frame(const capture::SourceFrame& frame) { (void)frame; }
    virtual void end_task() {}
    virtual void end_tasks() {}
    virtual void end_thread() = 0;
    /// What the search for greenlets came to.
    virtual void tell_greenlets(const capture::GreenletCapture::Found& found) { (void)found; }
    /// `is_cut`: there were more threads than could be listed.
    virtual void end(bool is_cut) = 0;

  protected:
    ~ReportWriter() = default;
};

/// Words for ThreadStat::state. Pure.
std::string_view name_state(char kernel_state);
/// Words for a thread's state: the kernel's, but for 'R', where it is told whether the thread is on
/// a CPU. Pure.
std::string_view name_state(const capture::CapturedThread& thread);

/// Reads all threads of a process and writes them down. All memory is taken by make(); write()
/// allocates nothing. One thread at a time.
class ProcessReport {
  public:
    static Result<ProcessReport> make(const cpython::RuntimeView& view,
                                      const capture::ProcessCapture::Limits& limits);

    /// Writes a report, from begin() to end(). `pid`: the process for the kernel's part (0: this
    /// one). Errors as for ProcessCapture::list_threads(): nothing has been written then.
    Status write(MemoryReader& reader, SameCpu& same_cpu, pid_t pid, const ReportHeader& header,
                 ReportWriter& writer) {
        return write(reader, same_cpu, pid, header, writer, [] { return true; });
    }
    /// The same, as long as `may_go_on` says so, which is asked before each thread and each frame;
    /// what has been written then is a whole report of fewer threads, the last of fewer frames,
    /// which is told as cut.
    Status write(MemoryReader& reader, SameCpu& same_cpu, pid_t pid, const ReportHeader& header,
                 ReportWriter& writer, FunctionRef<bool()> may_go_on);

    [[nodiscard]] capture::ProcessCapture& capture() { return capture_; }
    [[nodiscard]] capture::CodeTable& codes() { return codes_; }

    /// Reads the names of the listed threads.
    void read_names(MemoryReader& reader);
    /// The name of a listed thread: threading's, or one made up for a thread that has none there.
    /// Good until the next call.
    std::string_view find_name(const capture::CapturedThread& thread);

  private:
    ProcessReport(capture::ProcessCapture capture, capture::CodeTable codes,
                  cpython::ThreadNames names)
        : capture_(std::move(capture)), codes_(std::move(codes)), names_(std::move(names)) {}

    bool write_frames(MemoryReader& reader, const capture::CapturedThread& thread,
                      ReportWriter& writer, FunctionRef<bool()> may_go_on);
    bool write_tasks(MemoryReader& reader, const capture::CapturedThread& thread,
                     ReportWriter& writer, FunctionRef<bool()> may_go_on);
    bool write_greenlets(MemoryReader& reader, const capture::CapturedThread& thread,
                         ReportWriter& writer, FunctionRef<bool()> may_go_on);
    /// Writes the places of a tree, with frames.
    bool write_tree(MemoryReader& reader, const capture::CapturedThread& thread, TaskTree& tree,
                    ReportWriter& writer, FunctionRef<bool()> may_go_on);
    /// What a greenlet is called in a text, in `into`.
    std::string_view label_of(const capture::CapturedTask& greenlet, std::uint32_t id,
                              std::span<char> into) const;
    [[nodiscard]] std::span<const cpython::RawFrame> frames_of(
        const capture::CapturedThread& thread, const capture::CapturedTask& task) const;

    capture::ProcessCapture capture_;
    capture::CodeTable codes_;
    cpython::ThreadNames names_;
    TaskTree tree_;
    TaskTree greenlet_tree_;
    char coroutine_name_[256] = {};
    char label_[320] = {};
    char child_label_[320] = {};
    char made_up_name_[32] = {};
};

}  // namespace echion::report
