"""A server of gevent's WSGI: see _serving.py."""

import gevent
from gevent.pywsgi import WSGIServer
from gevent.socket import socket

from _serving import answer, burn_heavy, burn_light, finish, socket_descriptor
from _support import ready


def light():
    burn_light()
    gevent.sleep(0)
    burn_light()


def heavy():
    burn_heavy()
    gevent.sleep(0)
    burn_heavy()


def idle():
    pass


def end():
    gevent.spawn(server.stop)


HANDLERS = {one.__name__: one for one in (light, heavy, idle, end)}


def application(environ, start_response):
    kind, number = environ["PATH_INFO"].strip("/").split("/")
    HANDLERS[kind]()
    body = answer(kind, number).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    server = WSGIServer(socket(fileno=socket_descriptor()), application, log=None)
    server.start()
    ready()
    server.serve_forever()
    finish()
