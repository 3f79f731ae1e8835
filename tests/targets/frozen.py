"""Two functions that are busy one after the other, on a machine whose clocks may stand still: they ask
how much CPU time the kernel has given them.

    frozen.py [seconds of CPU time of each]
"""

import resource

from _support import argument, ready, report


def used():
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_utime + usage.ru_stime


def alpha(cpu_s):
    begin = used()
    while used() < begin + cpu_s:
        pass
    return used() - begin


def beta(cpu_s):
    begin = used()
    while used() < begin + cpu_s:
        pass
    return used() - begin


def main():
    cpu_s = argument(1, 0.15)
    ready()
    alpha_s = alpha(cpu_s)
    beta_s = beta(cpu_s)
    report(alpha_s=alpha_s, beta_s=beta_s)


if __name__ == "__main__":
    main()
