/* A library that holds its process at a moment when Python has not started, or has ended: while the
 * loader runs constructors (HELD_AT=start), or destructors (HELD_AT=end). It says so by making a
 * writer of the FIFO HELD_WORD, and goes on when HELD_GATE's last writer closes it. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void hold(const char* moment) {
    const char* wanted = getenv("HELD_AT");
    if (wanted == NULL || strcmp(wanted, moment) != 0) {
        return;
    }
    unsetenv("LD_PRELOAD"); /* of what this process starts */
    const int word = open(getenv("HELD_WORD"), O_WRONLY);
    if (word < 0 || write(word, "h", 1) != 1) {
        _exit(9);
    }
    close(word);
    const int gate = open(getenv("HELD_GATE"), O_RDONLY);
    char byte;
    while (read(gate, &byte, 1) > 0) {
    }
    close(gate);
}

__attribute__((constructor)) static void hold_at_start(void) { hold("start"); }
__attribute__((destructor)) static void hold_at_end(void) { hold("end"); }
