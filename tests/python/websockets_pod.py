"""A pod on the `websockets` package: WebSocket only, compression negotiated as it is by default.

    python websockets_pod.py --pod backend-0
"""

import asyncio

import websockets

import support

args = support.arguments()


async def talk(connection):
    await connection.send(f"hello {args.pod}")
    async for message in connection:
        if message == support.CLOSE_ME:
            await connection.close(support.CLOSE_CODE, support.CLOSE_REASON)
        else:
            await connection.send(message)


async def main():
    server = support.listener()
    protocols = [support.SUBPROTOCOL]
    async with websockets.serve(talk, sock=server, subprotocols=protocols, max_size=None) as running:
        support.announce(args.pod, server)
        await running.serve_forever()


asyncio.run(main())
