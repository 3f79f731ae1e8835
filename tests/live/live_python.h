#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cpython/layout.h"

namespace echion::test {

/// Paths of the interpreters to test with: ECHION_TEST_PYTHONS (separated by ':') or CPython 3.8 to
/// 3.15 of pyenv, of the system and of scripts/pythons, and free-threaded ones of scripts/pythons.
std::vector<std::string> find_pythons();

/// A name for a test's parameter: letters, digits and underscores.
std::string python_name(const std::string& path);

/// A running interpreter with a script that prints facts about itself, one a line, then "ready",
/// and waits for its standard input to close.
class LivePython {
  public:
    LivePython(const std::string& path, const std::string& script);
    LivePython(const LivePython&) = delete;
    LivePython& operator=(const LivePython&) = delete;
    /// Lets the script end and reaps it.
    ~LivePython();

    [[nodiscard]] pid_t pid() const { return pid_; }
    /// The facts, split at tabs; empty when the script failed before it was ready.
    [[nodiscard]] const std::vector<std::vector<std::string>>& facts() const { return facts_; }

    /// Tells the script to go on, and reads its facts up to the next "ready" instead of these.
    void step();

  private:
    void read_facts();

    pid_t pid_ = -1;
    int to_child_ = -1;
    int from_child_ = -1;
    std::string pending_;
    std::vector<std::vector<std::string>> facts_;
};

/// The row of the interpreter, by its first fact: "version", its three numbers and sys.abiflags.
/// Null where there is none.
const cpython::Layout* find_layout_of(const LivePython& python);

std::string from_hex(const std::string& hex);
std::uint64_t to_number(const std::string& text);

}  // namespace echion::test
