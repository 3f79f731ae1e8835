"""Which event loop a target has."""

import asyncio
import sys


def run(coroutine):
    """asyncio.run(), of uvloop's event loop where the command line has the word `uvloop`."""
    if "uvloop" in sys.argv:
        import uvloop

        uvloop.install()
    asyncio.run(coroutine)
