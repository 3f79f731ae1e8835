// Plays the agent's part towards the command-line program, honestly or not, so that the program can
// be tested without a Python. It is run as the launched command itself.
//
//     fake_agent BEHAVIOUR [argument]

#include "fake_agent.h"

#include <cstdio>

using namespace echion::fake_agent;

int main(int argc, char** argv) {
    Behaviours behaviours = honest_behaviours();
    behaviours.merge(rude_behaviours());
    const auto found = behaviours.find(argc > 1 ? argv[1] : "");
    if (found == behaviours.end()) {
        for (const auto& [name, behaviour] : behaviours) {
            std::printf("%s\n", name.c_str());
        }
        return 98;
    }
    found->second(argc > 2 ? argv[2] : "0");
    return 0;
}
