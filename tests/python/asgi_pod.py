"""A pod on uvicorn, as an ASGI application with python-socketio in front, every default left as it is.

    python asgi_pod.py --pod backend-0
"""

import asyncio
import json

import socketio
import uvicorn

import support

args = support.arguments()
events = asyncio.Event()
# Requests that wait for ever: how many have come, and how many of their clients have gone.
hanging = {"come": 0, "gone": 0}


async def read_body(receive):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def answer(send, status=200, headers=(), parts=(b"",)):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    for number, part in enumerate(parts):
        more = number + 1 < len(parts)
        await send({"type": "http.response.body", "body": part, "more_body": more})


def sized(body, *more):
    return [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode()), *more]


async def http(scope, receive, send):
    name = scope["path"].rsplit("/", 1)[-1]
    head = dict(scope["headers"])
    if name == "echo":
        body = await read_body(receive)
        framing = b"chunked" if head.get(b"transfer-encoding") == b"chunked" else b"length"
        await answer(send, headers=sized(body, (b"x-framing", framing)), parts=[body])
    elif name == "fields":
        body = json.dumps([[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]])
        await answer(send, headers=sized(body), parts=[body.encode()])
    elif name == "parts":
        await answer(send, parts=support.PARTS)
    elif name == "large":
        await answer(send, headers=sized(support.LARGE), parts=[support.LARGE])
    elif name == "nothing":
        await answer(send, status=204)
    elif name == "unchanged":
        await answer(send, status=304, headers=[(b"etag", support.ETAG.encode())])
    elif name == "odd":
        cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2; Path=/")]
        await answer(send, status=support.ODD_STATUS, headers=[*cookies, (b"content-length", b"0")])
    elif name == "events":
        await stream(send)
    elif name == "next":
        events.set()
        await answer(send, headers=sized(b""))
    elif name == "hang":
        hanging["come"] += 1
        while (await receive())["type"] != "http.disconnect":
            pass
        hanging["gone"] += 1
    elif name == "hanging":
        body = json.dumps(hanging).encode()
        await answer(send, headers=sized(body), parts=[body])
    else:
        await answer(send, status=404, headers=sized(b""))


async def stream(send):
    """Server-sent events: one at once, and another each time `next` is asked for."""
    head = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for number in range(3):
        if number > 0:
            await events.wait()
            events.clear()
        event = f"id: {number}\ndata: event {number}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": number < 2})


async def websocket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    chosen = support.SUBPROTOCOL if support.SUBPROTOCOL in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    await send({"type": "websocket.send", "text": f"hello {args.pod}"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == support.CLOSE_ME:
            await send({"type": "websocket.close", "code": support.CLOSE_CODE, "reason": support.CLOSE_REASON})
            return
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})


async def app(scope, receive, send):
    if scope["type"] == "http":
        await http(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)


async def main():
    sio = socketio.AsyncServer(async_mode="asgi")
    support.add_socketio_events(sio, args.pod)
    server = support.listener()
    config = uvicorn.Config(socketio.ASGIApp(sio, app), log_level="warning")
    support.announce(args.pod, server)
    await uvicorn.Server(config).serve(sockets=[server])


asyncio.run(main())
