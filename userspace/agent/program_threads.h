#pragma once

namespace echion::agent {

/// The threads that the program has beside the agent's. Each look opens a file.
class ProgramThreads {
  public:
    /// Whether there is none any more. To be asked now and then, too, while there are some.
    bool is_over();
    /// Behind that: the status that the process would have had without the agent, as wait(2) tells
    /// it. 0 also for a program that has left all its threads by pthread_exit(3).
    ///
    /// It is that of the thread that ended last (Linux 5.19, kernel/exit.c,
    /// synchronize_group_exit; before, that of the first thread whatever the others did). The
    /// kernel keeps the first one's only: another that ended last is taken to have returned.
    [[nodiscard]] int read_status() const;

  private:
    bool was_first_outlived_ = false;
};

}  // namespace echion::agent
