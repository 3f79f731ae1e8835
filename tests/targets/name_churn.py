"""Ever new functions, made, run and dropped: no name may outlive its function in a profile.

    name_churn.py [seconds]

Every function has the same code but for its name, its file's name and its lines, so the memory of a
dropped one is soon that of another. The report says when each lived, in seconds since `calibrate`
began to spin; a test finds that moment in the profile and adds up the main thread's time from it.
"""

import gc

from _support import argument, clock, ready, report

WARM_UP_S = 0.5
CALIBRATION_S = 0.2
LIFE_S = 0.002
SOURCE = """{blank}def {name}(clock, end):
    total = 0
    while clock() < end:
        total += 1
        total ^= 3
    return total
"""


def warm_up(end):
    """Until the sampler has begun, whatever it has to load first."""
    while clock() < end:
        pass


def calibrate(end):
    while clock() < end:
        pass


def make(number):
    name = "born_{}".format(number)
    blank = "\n" * (number % 40)
    space = {}
    source = SOURCE.format(blank=blank, name=name)
    exec(compile(source, "<churn {}>".format(number), "exec"), space)
    return name, space.pop(name)


def churn(origin, end):
    lives = []
    number = 0
    while clock() < end:
        number += 1
        born = clock()
        name, function = make(number)
        function(clock, clock() + LIFE_S)
        del function
        lives.append((name, born - origin, clock() - origin))
    return lives


def main():
    seconds = argument(1, 4.0)
    gc.disable()
    ready()
    warm_up(clock() + WARM_UP_S)
    origin = clock()
    calibrate(origin + CALIBRATION_S)
    lives = churn(origin, clock() + seconds)
    report(lives=lives)


if __name__ == "__main__":
    main()
