"""A thread that waits in a sub-interpreter for its standard input to end, and one that waits for it."""

import os
import threading

from _support import ready, report
from interpreted import interpreters

SOURCE = """
import os
def waits_inside():
    os.write({}, b"+")
    while os.read(0, 100):
        pass
waits_inside()
"""


def main():
    api = interpreters()
    number = api.create()
    begun, tell = os.pipe()
    arguments = (number, SOURCE.format(tell))
    thread = threading.Thread(target=api.run_string, args=arguments, name="runner")
    thread.start()
    os.read(begun, 1)
    ready()
    thread.join()
    report(number=int(number))
    api.destroy(number)


main()
