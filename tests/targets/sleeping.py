"""Does nothing but wait in a function, at once: nothing is loaded that it does not need.

    sleeping.py [seconds]
"""

import sys
import time


def serve_forever(seconds):
    time.sleep(seconds)


def main():
    serve_forever(float(sys.argv[1]) if len(sys.argv) > 1 else 0.3)  # calls serve_forever


main()  # calls main
