#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "base/function_ref.h"
#include "platform/program_file.h"

namespace echion {

/// What /proc/PID/status says of a process or of one of its threads (proc(5)).
struct ProcessInfo {
    pid_t pid = 0;  ///< as this process sees it
    pid_t group_pid =
        0;  ///< of its process, likewise: another one for a thread that is not the first
    pid_t own_pid = 0;   ///< as it sees itself, in its innermost PID namespace
    char name[32] = {};  ///< command name (at most 15 bytes of it are the kernel's), escaped
    /// 'R' running, 'S' sleeping, 'D' uninterruptible, 'T' stopped, 't' traced, 'Z' zombie, 'X'.
    char state = '?';
    pid_t parent_pid = 0;  ///< 0: none that this PID namespace can see
    pid_t tracer_pid = 0;  ///< 0: none, or one that this PID namespace cannot see
    uid_t real_uid = 0;
    uid_t effective_uid = 0;
    uid_t saved_uid = 0;
    gid_t real_gid = 0;
    gid_t effective_gid = 0;
    gid_t saved_gid = 0;
    unsigned threads = 0;
    unsigned seccomp = 0;  ///< 0 none, 1 strict, 2 filter
    std::uint64_t blocked_signals = 0;
    std::uint64_t ignored_signals = 0;
    std::uint64_t caught_signals = 0;
    std::uint64_t effective_capabilities = 0;  ///< in its own user namespace, as the next
    std::uint64_t permitted_capabilities = 0;
    std::uint64_t voluntary_switches = 0;
    std::uint64_t locked_kilobytes = 0;  ///< mlock(2), mlockall(2)
    bool has_memory = false;        ///< false: a kernel thread, a zombie, or one that is ending
    bool has_shadow_stack = false;  ///< x86 user shadow stacks are on
};

/// Parses the text of a status file. Fields that are missing keep their defaults; kInvalid when
/// there is no State. Pure.
Result<ProcessInfo> parse_process_status(std::string_view text);

/// Reads /proc/PID/status; pid 0 is this process. kSystem with ENOENT when there is no such
/// process. Any user may read it, unless /proc is mounted with hidepid.
Result<ProcessInfo> read_process_info(pid_t pid);
/// The same for one thread of a process.
Result<ProcessInfo> read_thread_info(pid_t pid, pid_t tid);

/// Which threads a process has beside `count` of them. The first is the one that it started with,
/// whose number stays with the process when that thread ends before others.
enum class OtherThreads : std::uint8_t {
    kFirst,         ///< the first at least; or it cannot be told
    kWithoutFirst,  ///< some, but the first has ended
    kNone,
};
/// `pid` 0 is this process. Opens a file.
OtherThreads look_at_other_threads(pid_t pid, unsigned count);

/// Calls `visit` with the id of each thread of a process until it returns false. Threads come and
/// go meanwhile. Allocates nothing.
Status for_each_thread(pid_t pid, FunctionRef<bool(pid_t)> visit);
/// Calls `visit` for the children that a thread has made and nobody has waited for yet, until it
/// returns false. kSystem with ENOENT: there is no such thread, or the kernel keeps no list
/// (CONFIG_PROC_CHILDREN).
Status for_each_child(pid_t pid, pid_t tid, FunctionRef<bool(pid_t)> visit);

/// Where a thread that is blocked in a system call is (/proc/PID/task/TID/syscall). Needs the right
/// to trace it.
struct BlockedCall {
    long number = -1;  ///< -1: blocked, but not in a system call
    std::uintptr_t arguments[6] = {};
    std::uintptr_t stack_pointer = 0;
    std::uintptr_t instruction_pointer = 0;
};

/// Parses the text of a syscall file; kNotReady when the thread is running. Pure.
Result<BlockedCall> parse_blocked_call(std::string_view text);
Result<BlockedCall> read_blocked_call(pid_t pid, pid_t tid);
/// The address of the word that a thread waits for another one to change (a lock's, a condition
/// variable's); kNotReady when it does not wait so. Other errors as read_blocked_call().
Result<std::uintptr_t> read_awaited_word(pid_t pid, pid_t tid);

/// Of the program that a process runs; kUnknown where its file cannot be opened.
ProgramClass read_program_class(pid_t pid);

/// Inode of a namespace of a process ("user", "pid", "mnt", …): two processes share it when the
/// inodes are the same. 0 when it may not be read.
std::uint64_t read_namespace(pid_t pid, const char* name);

/// Whether the process's control group is frozen (cgroup.freeze, `docker pause`), as far as it can
/// be seen from here: none of its threads runs, though most say that they sleep. Any thread.
bool is_frozen(pid_t pid);

/// /proc/sys/kernel/yama/ptrace_scope: 0 classic, 1 descendants only, 2 with CAP_SYS_PTRACE only, 3
/// nobody; -1 when the kernel has no Yama.
int read_yama_scope();

}  // namespace echion
