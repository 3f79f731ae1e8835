"""A server of Starlette with uvicorn: see _serving.py."""

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from _serving import answer, burn_heavy, burn_light, finish, listening
from _support import ready


def respond(kind, request):
    return PlainTextResponse(answer(kind, request.path_params["number"]))


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
    server.should_exit = True
    return respond("end", request)


class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        ready()


if __name__ == "__main__":
    handlers = (light, heavy, idle, end)
    application = Starlette(
        routes=[Route("/%s/{number}" % one.__name__, one) for one in handlers]
    )
    loop = "uvloop" if "uvloop" in sys.argv else "asyncio"
    server = Server(uvicorn.Config(application, loop=loop, http="h11", log_level="warning"))
    server.run(sockets=[listening()])
    finish()
