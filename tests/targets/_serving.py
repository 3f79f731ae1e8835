"""What the servers that are profiled have in common.

    server_….py DESCRIPTOR [uvloop]

The descriptor is a socket that listens. A request for /light/N or /heavy/N uses CPU time in a function
of its own, lets others run, uses as much again, and is answered with its own words; one for /idle/N is
answered at once, and /end/N ends the server, which then reports how much CPU time the functions used.
"""

import socket
import sys
import time

from _support import report

BURNT_S = {"light": 0.0005, "heavy": 0.0015}
spent = dict.fromkeys(BURNT_S, 0.0)
served = dict.fromkeys(BURNT_S, 0)


def burn(kind):
    begin = time.thread_time()
    end = begin + BURNT_S[kind]
    now = begin
    while now < end:
        now = time.thread_time()
    spent[kind] += now - begin


def burn_light():
    burn("light")


def burn_heavy():
    burn("heavy")


def answer(kind, number):
    if kind in served:
        served[kind] += 1
    return "%s %s" % (kind, number)


def socket_descriptor():
    return int(sys.argv[1])


def listening():
    return socket.socket(fileno=socket_descriptor())


def finish():
    report(spent=spent, served=served)
