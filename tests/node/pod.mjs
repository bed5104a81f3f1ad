// A real backend pod: HTTP, and Socket.IO with every default, joined to its fellow pods by the Redis adapter.
//
//   node pod.mjs --pod backend-1 [--port 0] [--redis redis://127.0.0.1:6379] [--named-sids] [--ping-interval 25000]

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { answerHttp, readArguments, runPod } from "./support.mjs";

const args = readArguments({ pod: undefined, port: 0, redis: null, "named-sids": false, "ping-interval": 0 });
const { pod, port, redis } = args;

// What this pod handled, by room: a room that has events at two pods was misrouted.
const rooms = {};

// No option is set where the test does not ask for it: Node's keep-alive timeout of 5 s is part of what the router must live with.
const server = createServer(answerHttp(pod, () => ({ rooms })));
const options = redis ? { adapter: await connectAdapter(redis) } : {};
if (args["ping-interval"]) options.pingInterval = args["ping-interval"];
const io = new Server(server, options);

// The three lines of the README: the session's id says where the session is.
if (args["named-sids"]) {
  io.engine.generateId = () => `${pod}~${randomBytes(15).toString("base64url")}`;
}

io.on("connection", (socket) => {
  const room = socket.handshake.query.roomId ?? "waiting";
  const stats = (rooms[room] ??= { connections: 0, events: 0, binary: 0, transports: {} });
  stats.connections += 1;
  socket.join(room);

  socket.onAny((_event, data) => {
    const transport = socket.conn.transport.name;
    stats.events += 1;
    stats.binary += Buffer.isBuffer(data) ? 1 : 0;
    stats.transports[transport] = (stats.transports[transport] ?? 0) + 1;
  });
  socket.on("echo", (data, acknowledge) => acknowledge({ pod, data }));
  socket.on("say", ({ from, n }) => io.to(room).emit("said", { pod, from, n }));
  socket.on("shout", (n) => io.emit("shouted", { pod, n }));
  socket.on("whoami", (acknowledge) => acknowledge({ pod, transport: socket.conn.transport.name }));
});

runPod(server, { pod, port }, () => io.close());

async function connectAdapter(url) {
  const publisher = createClient({ url });
  const subscriber = publisher.duplicate();
  // Tests take Redis away: a pod of the real world says so, once, and goes on. The adapter does not await what it
  // publishes, hence the second handler.
  const said = new Set();
  const report = ({ code, message }) => {
    const what = message || code;
    if (!said.has(what)) console.error(`${pod}: redis: ${what}`);
    said.add(what);
  };
  for (const client of [publisher, subscriber]) client.on("error", report);
  process.on("unhandledRejection", report);
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return createAdapter(publisher, subscriber);
}
