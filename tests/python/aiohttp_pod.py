"""A pod on aiohttp's server, with python-socketio as its users run it there, every default left as it is.

    python aiohttp_pod.py --pod backend-0
"""

import asyncio

import socketio
from aiohttp import WSMsgType, web

import support

args = support.arguments()
events = asyncio.Event()
# Requests that wait for ever: how many have come, and how many of their clients have gone.
hanging = {"come": 0, "gone": 0}


async def echo(request):
    body = await request.read()
    framing = "chunked" if request.headers.get("Transfer-Encoding") == "chunked" else "length"
    return web.Response(body=body, headers={"X-Framing": framing})


async def fields(request):
    return web.json_response([[name, value] for name, value in request.headers.items()])


async def parts(request):
    response = web.StreamResponse()
    await response.prepare(request)
    if request.method != "HEAD":  # aiohttp would send it
        for part in support.PARTS:
            await response.write(part)
    await response.write_eof()
    return response


async def large(request):
    return web.Response(body=support.LARGE)


async def nothing(request):
    return web.Response(status=204)


async def unchanged(request):
    return web.Response(status=304, headers={"ETag": support.ETAG})


async def odd(request):
    response = web.Response(status=support.ODD_STATUS, reason=support.ODD_REASON)
    response.headers.add("Set-Cookie", "a=1")
    response.headers.add("Set-Cookie", "b=2; Path=/")
    return response


async def stream(request):
    """Server-sent events: one at once, and another each time `next` is asked for."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    for number in range(3):
        if number > 0:
            await events.wait()
            events.clear()
        await response.write(f"id: {number}\ndata: event {number}\n\n".encode())
    await response.write_eof()
    return response


async def next_event(request):
    events.set()
    return web.Response()


async def hang(request):
    hanging["come"] += 1
    try:
        await asyncio.Event().wait()
    finally:
        hanging["gone"] += 1


async def count_hanging(request):
    return web.json_response(hanging)


async def websocket(request):
    socket = web.WebSocketResponse(protocols=[support.SUBPROTOCOL], autoclose=False, max_msg_size=0)
    await socket.prepare(request)
    await socket.send_str(f"hello {args.pod}")
    async for message in socket:
        if message.type == WSMsgType.TEXT and message.data == support.CLOSE_ME:
            await socket.close(code=support.CLOSE_CODE, message=support.CLOSE_REASON.encode())
        elif message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    # Left to itself, aiohttp answers each close with 1000.
    await socket.close(code=socket.close_code or 1000, message=b"done")
    return socket


app = web.Application(client_max_size=16 * 1024 * 1024)
sio = socketio.AsyncServer(async_mode="aiohttp")
sio.attach(app)
support.add_socketio_events(sio, args.pod)
ROUTES = {
    "echo": echo,
    "fields": fields,
    "parts": parts,
    "large": large,
    "nothing": nothing,
    "unchanged": unchanged,
    "odd": odd,
    "events": stream,
    "next": next_event,
    "hang": hang,
    "hanging": count_hanging,
    "ws": websocket,
}
for name, handler in ROUTES.items():
    app.router.add_route("*", f"/live/{{room}}/{name}", handler)

server = support.listener()
support.announce(args.pod, server)
# A handler learns of its client's abort only where the application asks for it.
web.run_app(app, sock=server, print=None, access_log=None, handler_cancellation=True)
