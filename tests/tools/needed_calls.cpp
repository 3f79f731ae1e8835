// Prints the table of the system calls that attaching and sampling make (inject/needed_calls.h): a
// line each, the number and six arguments of two words, the lower one first, `-` for what is not
// known. For the test that builds a filter of it.

#include "inject/needed_calls.h"

#include <cstdio>

namespace {

void print(const echion::inject::FilterWord& word) {
    if (word.is_known) {
        std::printf(" %u", word.value);
    } else {
        std::printf(" -");
    }
}

}  // namespace

int main() {
    for (const auto& call : echion::inject::needed_calls()) {
        std::printf("%ld", call.number);
        for (const auto& argument : call.arguments) {
            print(argument.low);
            print(argument.high);
        }
        std::printf("\n");
    }
    return 0;
}
