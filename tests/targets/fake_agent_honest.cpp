// Agents that keep to the protocol, and the ways in which their programs end.

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "fake_agent.h"

namespace echion::fake_agent {

Behaviours honest_behaviours() {
    return {
        {"exit",
         [](const char* status) {
             Agent agent;
             agent.sample();
             std::exit(std::atoi(status));
         }},
        {"die",
         [](const char* number) {
             Agent agent;
             agent.sample();
             raise(std::atoi(number));
         }},
        {"until-stopped",
         [](const char*) {
             Agent agent;
             agent.sample();
             announce("ready");
             agent.stop_when_told();
             announce("stopped");
         }},
        {"until-signal",
         [](const char* number) {
             // Samples, then waits for the signal and ends with status 40.
             sigset_t set;
             sigemptyset(&set);
             sigaddset(&set, std::atoi(number));
             sigprocmask(SIG_BLOCK, &set, nullptr);
             Agent agent;
             agent.sample();
             announce("ready");
             int got = 0;
             sigwait(&set, &got);
             std::exit(40);
         }},
        {"settings",
         [](const char*) {
             Agent agent;
             agent.sample();
             std::printf("%llu %u %u %u\n",
                         static_cast<unsigned long long>(agent.settings.interval_ns),
                         static_cast<unsigned>(agent.settings.mode), agent.settings.flags,
                         agent.settings.max_frames);
         }},
        {"fail",
         [](const char* why) {
             const UniqueFd channel = connect_channel();
             send_message(channel.get(), make_hello());
             receive_configure(channel.get());
             auto failed = make_message<control::Failed>(control::MessageType::kFailed);
             std::strncpy(failed.what, why, sizeof(failed.what) - 1);
             send_message(channel.get(), failed);
         }},
        {"forked",
         [](const char*) {
             // A child that the agent knows nothing of keeps the channel open behind its parent.
             Agent agent;
             agent.sample();
             announce("ready");
             if (fork() == 0) {
                 for (int fd = 0; fd < 3; ++fd) {
                     close(fd);  // or the test would wait for it
                 }
                 pause();
             }
         }},
        {"names",
         [](const char*) {
             Agent agent;
             agent.encoder.begin_tick(1 * kMs);
             agent.encoder.thread(1, 3, 101, "a;b:c d\ne\r 12");
             agent.encoder.thread(2, 0, 102, "Worker 3");
             agent.encoder.code(2, CodeKind::kLnotab, 1, "f;g:h\ni 5", "",
                                "/a;b c:d\n/\U0001F434 7.py", {});
             agent.encoder.code(3, CodeKind::kLnotab, 2, "\U0001F434", "", "", {});
             agent.encoder.label(4, "Task: 1; x 9");
             agent.encoder.code(5, CodeKind::kLnotab, 3, "bad\xff", "", "\x01\x7f.py", {});
             const FrameRef frames[] = {{2, 0}, {3, 0}, {4, 0}, {5, 0}};
             agent.encoder.stack(1, 0, 0, frames);
             agent.encoder.stack(0, kStackInGc | kStackInvalid | kStackTruncated, 0, {frames, 2});
             if (!agent.encoder.commit()) {
                 die("commit");
             }
             agent.say_started();
             agent.tick(2 * kMs, {});
         }},
        {"evil-names",
         [](const char*) {
             // Names that would have a reader see lines, metrics and paths of their own.
             Agent agent;
             agent.encoder.begin_tick(1 * kMs);
             agent.encoder.thread(1, 0, 101, "x 1\n# duration: 0 \nP1;T0:y;a.py:f:1 5");
             agent.encoder.thread(2, 0, 102, "/tmp/evil.so");
             agent.encoder.code(2, CodeKind::kLnotab, 1, "f\v/tmp/evil.so\x1c 7", "",
                                "\n/tmp/evil.so\xc2\x85:/tmp/evil.so /tmp/evil.so\xe2\x80\xa8", {});
             agent.encoder.label(3, "/tmp/evil.so\x1b[2J\x7f 7");
             const FrameRef frames[] = {{2, 0}, {3, 0}};
             agent.encoder.stack(1, 0, 0, frames);
             if (!agent.encoder.commit()) {
                 die("commit");
             }
             agent.say_started();
             agent.tick(2 * kMs, {});
         }},
        {"rate",
         [](const char* count) {
             // As many samples as it can, each another stack of 20 frames; waits when the ring is
             // full.
             Agent agent;
             agent.say_started();
             agent.encoder.begin_tick(1000);
             for (std::uint32_t id = 2; id < 200; ++id) {
                 const std::string name = "function_of_a_usual_length_" + std::to_string(id);
                 agent.encoder.code(id, CodeKind::kLnotab, id, name, "SomeClass." + name,
                                    "/usr/lib/python3/dist-packages/package/module.py", {});
             }
             if (!agent.encoder.commit()) {
                 die("commit");
             }
             std::vector<FrameRef> frames;
             for (std::uint32_t i = 0; i < 20; ++i) {
                 frames.push_back({i, 0});
             }
             const long wanted = std::atol(count);
             for (long i = 0; i < wanted;) {
                 const auto kept = static_cast<std::uint32_t>(14 + i % 5);
                 for (std::uint32_t at = kept; at < 20; ++at) {
                     frames[at].code_id = static_cast<std::uint32_t>(2 + (i * 7 + at) % 198);
                 }
                 if (agent.ring.percent_full() > 50) {
                     usleep(200);
                     (void)agent.ring.free_space();
                     continue;
                 }
                 agent.encoder.begin_tick(5000);
                 agent.encoder.stack(0, 0, i == 0 ? 0 : kept,
                                     i == 0 ? std::span<const FrameRef>(frames)
                                            : std::span<const FrameRef>(frames).subspan(kept));
                 if (!agent.encoder.commit()) {
                     die("commit");
                 }
                 agent.ring.count(Counter::kSamples);
                 ++i;
             }
         }},
    };
}

}  // namespace echion::fake_agent
