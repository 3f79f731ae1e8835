// attach_probe PID AGENT [CYCLES]: attaches AGENT to PID and lets it go, CYCLES times. Prints one
// JSON object a line: what it cost, or the line that a user would see.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "inject/loader.h"

namespace {

using echion::UniqueFd;

std::span<const std::byte> map_file(const char* path) {
    const UniqueFd file(open(path, O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (!file || fstat(file.get(), &status) != 0) {
        return {};
    }
    const auto size = static_cast<std::size_t>(status.st_size);
    void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    return data == MAP_FAILED ? std::span<const std::byte>()
                              : std::span(static_cast<const std::byte*>(data), size);
}

std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            result += '\\';
        }
        result += c;
    }
    return result + "\"";
}

bool cycle(pid_t pid, const echion::inject::AgentImage& image) {
    const auto injection = echion::inject::inject_agent(pid, image);
    if (!injection) {
        std::printf("{\"error\": %s}\n", quoted(injection.error().text).c_str());
        return false;
    }
    const int channel = injection->channel.get();
    char hello = 0;
    char stopped = 0;
    const bool answered = recv(channel, &hello, 1, 0) == 1 &&
                          send(channel, &hello, 1, MSG_NOSIGNAL) == 1 &&
                          recv(channel, &stopped, 1, 0) == 1 && recv(channel, &stopped, 1, 0) == 0;
    const auto& cost = injection->cost;
    std::printf(
        "{\"pause_us\": %.1f, \"probes\": %u, \"max_probe_us\": %.1f, \"total_us\": %.1f, "
        "\"reused\": %s, \"tid\": %d, \"doing\": %s, \"answered\": %s}\n",
        static_cast<double>(cost.pause_ns) / 1e3, cost.probes,
        static_cast<double>(cost.max_probe_ns) / 1e3, static_cast<double>(cost.total_ns) / 1e3,
        injection->reused ? "true" : "false", cost.borrowed_tid,
        quoted(cost.borrowed_doing).c_str(), answered ? "true" : "false");
    std::fflush(stdout);
    return answered;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: attach_probe PID AGENT [CYCLES]\n");
        return 2;
    }
    const echion::inject::AgentImage image{map_file(argv[2]), "echion-agent-dummy"};
    const int cycles = argc > 3 ? std::atoi(argv[3]) : 1;
    for (int i = 0; i < cycles; ++i) {
        if (!cycle(std::atoi(argv[1]), image)) {
            return 1;
        }
    }
    return 0;
}
