#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace echion {

/// What one look sees of the program that a process runs: enough to tell it from the one that it
/// runs after an exec. Fields are zero where the kernel does not show them.
struct ProgramImage {
    std::uint64_t executable_device = 0;
    std::uint64_t executable_inode = 0;
    /// startcode, endcode, startstack, start_data, end_data, start_brk of /proc/PID/stat (proc(5)),
    /// which each exec draws anew.
    std::array<std::uint64_t, 6> places{};
    /// This process has not the right to look.
    bool is_hidden = false;

    /// In the stack of the process's first thread. Zero also in the middle of an exec, and in a
    /// process that is ending.
    [[nodiscard]] std::uint64_t stack() const { return places[2]; }
    bool operator==(const ProgramImage&) const = default;
};

/// Waits for no file system. kSystem with EMFILE, ENFILE or ENOMEM: this process lacks what it
/// needs to look.
Result<ProgramImage> look_at_program(pid_t pid);

/// The places in the text of a stat file; zeros where there are none. Pure. The name in it is the
/// target's, and may hold anything but its own closing parenthesis at the end.
std::array<std::uint64_t, 6> parse_program_places(std::string_view text);

/// Where a process comes from, as /proc/PID/stat tells; also of one that has ended and is not
/// reaped.
struct ProcessDescent {
    pid_t parent_pid = 0;
    /// With its number it names a process as long as the machine runs; 0: not known.
    std::uint64_t start_ticks = 0;
    bool has_ended = false;
    /// It runs the program that its parent ran when it was forked (PF_FORKNOEXEC), or ended in it.
    bool runs_parents_program = false;
};

/// kSystem with ENOENT or ESRCH: there is no such process.
Result<ProcessDescent> read_descent(pid_t pid);
/// The same in the text of that file. Pure.
ProcessDescent parse_descent(std::string_view text);

/// Too little of something that this process needs to look at another one: EMFILE, ENFILE, ENOMEM.
bool is_shortage(int system_errno);

/// How the first thread of a process has ended before others, as wait(2) would tell it of a process
/// (WIFEXITED() and so on). 0 when it lives, when it may not be looked at, and when it has left by
/// pthread_exit(3). `pid` 0 is this process. Opens a file.
int read_first_thread_status(pid_t pid);

/// The same in the text of a stat file. Pure.
int parse_exit_status(std::string_view text);

/// Whether a process has ended, or is ending: its first thread has given its memory back for that
/// (PF_EXITING), or there is no such process. A process whose other thread executes a program looks
/// like that for some microseconds.
bool is_ending(pid_t pid);

/// Whether it is a thread of the kernel's (PF_KTHREAD). One that is ending has no memory either,
/// and is none. False when it cannot be told.
bool is_kernel_thread(pid_t pid);

}  // namespace echion
