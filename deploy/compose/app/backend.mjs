// A backend pod: HTTP, and Socket.IO with two namespaces.
//
//   /waiting      any pod, no room: participants wait until enough of them do
//   /experiment   the room's pod: presence and messages, kept in this process's memory
//
// Settings are environment variables, as Kubernetes sets them: POD_NAME, REDIS_URL, PORT, HOST, MAX_ROOMS_PER_POD,
// MAX_PARTICIPANTS_PER_POD, METRICS_HEARTBEAT_INTERVAL (ms), WAITING_INTERVAL (ms), PARTICIPANTS_PER_ROOM.

import { randomBytes, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "socket.io";
import { Directory } from "./directory.mjs";
import { coalesced, guarded } from "./guard.mjs";
import { choosePod } from "./placement.mjs";
import { Queue } from "./queue.mjs";
import { Redis } from "./redis.mjs";
import { Rooms, openExperiment } from "./rooms.mjs";
import { openWaitingRoom } from "./waiting.mjs";

const { env } = process;
const pod = env.POD_NAME ?? "backend-0";
const heartbeat = Number(env.METRICS_HEARTBEAT_INTERVAL ?? 60_000);
const waitingInterval = Number(env.WAITING_INTERVAL ?? 2000);
const participantsPerRoom = Number(env.PARTICIPANTS_PER_ROOM ?? 2);
const limits = {
  rooms: Number(env.MAX_ROOMS_PER_POD ?? 20),
  participants: Number(env.MAX_PARTICIPANTS_PER_POD ?? 80),
};

/** A pod that has missed two heartbeats, and the third is due, is not given rooms. */
const FRESH_MS = 3 * heartbeat;
/** Likewise for a participant who waits. */
const PATIENCE_MS = 3 * waitingInterval;
/** How long leaving may take, whatever hangs. Less than the 10 s that Docker allows. */
const LEAVE_MS = 8000;

let ready = false;
let leaving = false;
let outageReported = false;

const redis = new Redis(env.REDIS_URL ?? "redis://127.0.0.1:6379", report);
const directory = new Directory(redis);
const channel = `waiting:${pod}:${randomUUID()}`;
const queue = new Queue(redis, { experiment: "demo", channel, patience: PATIENCE_MS });
const rooms = new Rooms();

const server = createServer(guarded(report, answer));
// Whoever sends requests keeps idle connections: pod-router for 4 s (--upstream-idle), Traefik, which sends /api/ here
// by itself, for up to 90 s. A server has to keep them for longer, or a request meets one that is just being closed.
server.keepAliveTimeout = 120_000;
const io = new Server(server);
// The pod's name in front of the `~`: by it pod-router finds a session's pod, also behind a Service that picks any.
io.engine.generateId = () => `${pod}~${randomBytes(15).toString("base64url")}`;

const beat = guarded(report, coalesced(beatOnce));
const experiment = openExperiment(io.of("/experiment"), { pod, directory, rooms, changed: beat, report });
const waitingRoom = openWaitingRoom(io.of("/waiting"), {
  pod,
  queue,
  placement,
  participantsPerRoom,
  interval: waitingInterval,
  report,
});

// A library's promise that nobody waits for is no reason to lose the rooms.
process.on("unhandledRejection", report);
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, leave);
const beating = setInterval(beat, heartbeat);
// First of all: whoever asks whether this process lives must not have to wait for Redis.
const port = Number(env.PORT ?? 3000);
server.listen(port, env.HOST ?? "0.0.0.0", () => say("listening", { port: server.address().port }));
redis.onReady(() => Promise.all([beat(), waitingRoom.refresh()]));
await redis.connect(channel, guarded(report, (news) => waitingRoom.tell(JSON.parse(news))));
await beat();
ready = true;
say("ready");

function answer(request, response) {
  // As it came, and not through `URL`, which throws at some: `//`, for one.
  const path = request.url.replace(/[?#].*$/s, "");
  const room = path.match(/^\/api\/room\/(room_[\w-]+)\/state$/)?.[1];
  if (room) return json(response, 200, { pod, room, ...rooms.state(room) });
  if (path === "/api/status") return json(response, 200, { pod, rooms: Object.fromEntries(rooms.sizes()) });
  if (path === "/health/live") return json(response, 200, { pod });
  // Once Redis has been found, this stays so without it: all pods lose it at the same moment, and none would be left to
  // take those who come, though the rooms go on. A new pod that cannot find it is not ready: a rollout stops there.
  if (path === "/health/ready") return json(response, ready && !leaving ? 200 : 503, { pod });
  return json(response, 404, { pod, error: "not found" });
}

function json(response, status, value) {
  response.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store" });
  response.end(JSON.stringify(value));
}

async function placement() {
  const { version, pods } = await directory.pods();
  const request = { limits, participants: participantsPerRoom, freshFor: FRESH_MS, now: Date.now() };
  return { version, pod: choosePod(pods, request) };
}

/** Tells how full this pod is; on the interval, and at once when that changes. */
async function beatOnce() {
  if (leaving) return;
  experiment.close(await directory.beat(pod, rooms.sizes()));
}

/**
 * The rooms of this pod are lost with it. Heartbeat and assignments go first, and the connections after them: a client
 * that comes back before that would be sent here again. With Redis away they stay, and this ends all the same: what
 * Redis is asked has a deadline (redis.mjs).
 */
async function leave() {
  leaving = true; // each connection that is closed below would be news worth a heartbeat
  clearInterval(beating);
  setTimeout(() => process.exit(0), LEAVE_MS);
  await Promise.all([waitingRoom.leave(), directory.leave(pod, [...rooms.sizes().keys()])]).catch(report);
  server.closeIdleConnections();
  await io.close();
  process.exit(0);
}

/** Says what went wrong. While Redis is away everything does, again and again: that is said once. */
function report(error) {
  const isOutage = !redis.isReady;
  if (!isOutage || !outageReported) say("failed", { error: error?.message || error?.code || String(error) });
  outageReported = isOutage;
}

function say(message, fields) {
  console.log(JSON.stringify({ message, pod, ...fields }));
}
