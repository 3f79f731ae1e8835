#include "live_python.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <sstream>

namespace echion::test {

namespace {

std::vector<std::string> split(const std::string& text, char separator) {
    std::vector<std::string> parts;
    std::stringstream stream(text);
    for (std::string part; std::getline(stream, part, separator);) {
        parts.push_back(part);
    }
    return parts;
}

void add_matches(const std::string& pattern, std::vector<std::string>& found) {
    glob_t matches{};
    if (glob(pattern.c_str(), 0, nullptr, &matches) == 0) {
        for (std::size_t i = 0; i < matches.gl_pathc; ++i) {
            found.emplace_back(matches.gl_pathv[i]);
        }
    }
    globfree(&matches);
}

std::string read_variable(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
}

/// Where scripts/pythons puts those that it makes.
std::string made_folder() {
    if (const std::string named = read_variable("ECHION_PYTHONS"); !named.empty()) {
        return named;
    }
    const std::string cache = read_variable("XDG_CACHE_HOME");
    return (cache.empty() ? read_variable("HOME") + "/.cache" : cache) + "/test-pythons";
}

}  // namespace

std::vector<std::string> find_pythons() {
    if (const char* given = std::getenv("ECHION_TEST_PYTHONS"); given != nullptr) {
        return split(given, ':');
    }
    std::vector<std::string> found;
    const char* root = std::getenv("PYENV_ROOT");
    const char* home = std::getenv("HOME");
    const std::string versions =
        (root != nullptr ? std::string(root)
                         : std::string(home != nullptr ? home : "") + "/.pyenv") +
        "/versions/";
    for (const char* minor : {"8", "9", "10", "11", "12", "13", "14", "15"}) {
        add_matches(versions + "3." + minor + ".*/bin/python3", found);
    }
    if (access("/usr/bin/python3", X_OK) == 0) {
        found.emplace_back("/usr/bin/python3");
    }
    add_matches(made_folder() + "/*/usr/bin/python3.??", found);
    return found;
}

std::string python_name(const std::string& path) {
    std::string name;
    for (const char c : path) {
        name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
    }
    return name;
}

LivePython::LivePython(const std::string& path, const std::string& script) {
    int in[2];
    int out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
        return;
    }
    pid_ = fork();
    if (pid_ == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        execl(path.c_str(), path.c_str(), script.c_str(), static_cast<char*>(nullptr));
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_child_ = in[1];
    from_child_ = out[0];
    read_facts();
}

LivePython::~LivePython() {
    close(to_child_);
    close(from_child_);
    if (pid_ > 0) {
        waitpid(pid_, nullptr, 0);
    }
}

void LivePython::step() {
    if (write(to_child_, "\n", 1) == 1) {
        read_facts();
    } else {
        facts_.clear();
    }
}

void LivePython::read_facts() {
    facts_.clear();
    for (;;) {
        for (std::size_t end = pending_.find('\n'); end != std::string::npos;
             end = pending_.find('\n')) {
            const std::string line = pending_.substr(0, end);
            pending_.erase(0, end + 1);
            if (line == "ready") {
                return;
            }
            facts_.push_back(split(line, '\t'));
        }
        char buffer[65536];
        const ssize_t count = ::read(from_child_, buffer, sizeof(buffer));
        if (count <= 0) {
            facts_.clear();  // the script died: its traceback is on standard error
            return;
        }
        pending_.append(buffer, static_cast<std::size_t>(count));
    }
}

const cpython::Layout* find_layout_of(const LivePython& python) {
    if (python.facts().empty() || python.facts().front().at(0) != "version") {
        return nullptr;
    }
    const std::vector<std::string>& fact = python.facts().front();
    const cpython::Version version{static_cast<std::uint8_t>(to_number(fact.at(1))),
                                   static_cast<std::uint8_t>(to_number(fact.at(2))), 0};
    const bool is_free_threaded = fact.size() > 4 && fact[4].find('t') != std::string::npos;
    return is_free_threaded ? cpython::find_free_threaded_layout(version)
                            : cpython::find_layout(version);
}

std::string from_hex(const std::string& hex) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
        bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    return bytes;
}

std::uint64_t to_number(const std::string& text) {
    return std::strtoull(text.c_str(), nullptr, 10);
}

}  // namespace echion::test
