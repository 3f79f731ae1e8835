"""A server of aiohttp's: see _serving.py."""

import asyncio

from aiohttp import web

from _loops import run
from _serving import answer, burn_heavy, burn_light, finish, listening
from _support import ready

END = None


def respond(kind, request):
    return web.Response(text=answer(kind, request.match_info["number"]))


async def light(request):
    burn_light()
    await asyncio.sleep(0)
    burn_light()
    return respond("light", request)


async def heavy(request):
    burn_heavy()
    await asyncio.sleep(0)
    burn_heavy()
    return respond("heavy", request)


async def idle(request):
    return respond("idle", request)


async def end(request):
    END.set()
    return respond("end", request)


async def main():
    global END
    END = asyncio.Event()
    application = web.Application()
    for handler in (light, heavy, idle, end):
        application.router.add_get("/%s/{number}" % handler.__name__, handler)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.SockSite(runner, listening()).start()
    ready()
    await END.wait()
    await runner.cleanup()


if __name__ == "__main__":
    run(main())
    finish()
