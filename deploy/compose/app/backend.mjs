// A backend pod: HTTP, and Socket.IO with two namespaces.
//
//   /waiting      any pod, no room: participants wait until enough of them do
//   /experiment   the room's pod: presence and messages, kept in this process's memory
//
// Settings are environment variables, as Kubernetes sets them: POD_NAME, REDIS_URL, PORT, HOST, MAX_ROOMS_PER_POD,
// MAX_PARTICIPANTS_PER_POD, METRICS_HEARTBEAT_INTERVAL (ms), PARTICIPANTS_PER_ROOM.

import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";
import { Directory } from "./directory.mjs";
import { Rooms, openExperiment } from "./rooms.mjs";
import { openWaitingRoom } from "./waiting.mjs";

const settings = {
  pod: process.env.POD_NAME ?? "backend-0",
  redis: process.env.REDIS_URL ?? "redis://127.0.0.1:6379",
  host: process.env.HOST ?? "0.0.0.0",
  port: Number(process.env.PORT ?? 3000),
  participantsPerRoom: Number(process.env.PARTICIPANTS_PER_ROOM ?? 2),
  heartbeat: Number(process.env.METRICS_HEARTBEAT_INTERVAL ?? 60_000),
  limits: {
    rooms: Number(process.env.MAX_ROOMS_PER_POD ?? 20),
    participants: Number(process.env.MAX_PARTICIPANTS_PER_POD ?? 80),
  },
};

const redis = connect();
const subscriber = redis.duplicate().on("error", report);
await Promise.all([redis.connect(), subscriber.connect()]);

const rooms = new Rooms();
const directory = new Directory(redis, settings.limits);
const server = createServer(answer);
// pod-router keeps idle connections to pods for 4 s (--upstream-idle). A server has to keep them for longer, or a
// request meets a connection that is just being closed: Node's default of 5 s would do, a minute leaves more room.
server.keepAliveTimeout = 60_000;
const io = new Server(server, { adapter: createAdapter(redis, subscriber) });

const { pod, participantsPerRoom } = settings;
openWaitingRoom(io.of("/waiting"), { pod, directory, participantsPerRoom, report });
openExperiment(io.of("/experiment"), { pod, directory, rooms, changed: beat });

let leaving = false;
await beat();
const beating = setInterval(beat, settings.heartbeat);
server.listen(settings.port, settings.host, () => say("listening", { port: server.address().port }));
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, leave);

function connect() {
  return createClient({ url: settings.redis }).on("error", report);
}

function answer(request, response) {
  const { pathname } = new URL(request.url, "http://pod");
  const room = pathname.match(/^\/api\/room\/(room_[\w-]+)\/state$/)?.[1];
  if (room) return json(response, 200, { pod: settings.pod, room, ...rooms.state(room) });
  if (pathname === "/api/status") return json(response, 200, { pod: settings.pod, ...rooms.totals() });
  if (pathname === "/health/ready") return json(response, redis.isReady ? 200 : 503, { pod: settings.pod });
  return json(response, 404, { pod: settings.pod, error: "not found" });
}

function json(response, status, value) {
  response.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store" });
  response.end(JSON.stringify(value));
}

/** Tells how full this pod is; on the interval, and at once when that changes. */
async function beat() {
  if (leaving) return;
  await directory.beat(settings.pod, rooms.totals()).catch(report);
}

/**
 * The rooms of this pod are lost with it. Heartbeat and assignments go first, and the connections after them: a client
 * that comes back before that would be sent here again.
 */
async function leave() {
  leaving = true; // each connection that is closed below would be news worth a heartbeat
  clearInterval(beating);
  await directory.leave(settings.pod, rooms.ids()).catch(report);
  server.closeIdleConnections();
  await io.close();
  await Promise.all([redis.quit(), subscriber.quit()]).catch(report);
  process.exit(0);
}

function report(error) {
  say("redis", { error: error.message || error.code });
}

function say(message, fields) {
  console.log(JSON.stringify({ message, pod: settings.pod, ...fields }));
}
