"""A thread that waits in a sub-interpreter for a while; the program goes on for as long without it.

    waited_inside.py [seconds]
"""

import os
import threading
import time

from _support import argument, clock, ready, report
from interpreted import interpreters

SOURCE = """
import os
def waits_inside():
    os.write({}, b"+")
    os.read({}, 1)
waits_inside()
"""


def main():
    seconds = argument(1, 0.6)
    api = interpreters()
    number = api.create()
    begun, tell = os.pipe()
    end, let_go = os.pipe()
    arguments = (number, SOURCE.format(tell, end))
    thread = threading.Thread(target=api.run_string, args=arguments, name="runner")
    begin = clock()
    thread.start()
    os.read(begun, 1)
    ready()
    time.sleep(seconds)
    os.write(let_go, b"+")
    thread.join()
    waited_s = clock() - begin
    time.sleep(seconds)
    report(waited_s=waited_s, alone_s=seconds)
    api.destroy(number)


main()
