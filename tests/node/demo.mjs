// The demo application of deploy/compose/app under what happens to servers: odd requests, pods that are killed, a Redis
// that is away or has forgotten everything. Each scenario starts servers of its own and says what it has seen.
//
//   node demo.mjs --scenario garbage [--router ../../target/debug/pod-router] [--deadline 60]

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fail, finish, readArguments, setDeadline } from "./support.mjs";
import { ClusterIp, Stage, eventually } from "./demostage.mjs";

const args = readArguments({ scenario: undefined, router: null, deadline: 60 });
const SCENARIOS = { garbage, ghosts, promised, placement, forgotten, restarted, outage, moved, sessions, rights };
const USERS = new URL("../../deploy/redis/users.acl", import.meta.url);
/** Further than any test goes: what is done then is not what makes it pass. */
const NEVER = { METRICS_HEARTBEAT_INTERVAL: 3_600_000 };

const stage = new Stage();
setDeadline(args.deadline, () => `${args.scenario}\n${stage.said()}`);
try {
  finish(await SCENARIOS[args.scenario](), []);
} catch (error) {
  fail(`${args.scenario}: ${error.stack}\n${stage.said()}`);
}

function assert(holds, what) {
  if (!holds) throw new Error(what);
}

/** Nothing that one client sends ends a process: who is in a room there does not notice. */
async function garbage() {
  await stage.startRedis();
  const [backend, frontend] = await Promise.all([stage.startBackend(0), stage.startFrontend()]);
  const [ada, grace] = await roomOfTwo([backend]);
  const targets = ["//", "//a:b/", "http://[", "/\\", "/%", "*", "/socket.io/?%&EIO=4", "/socket.io/?EIO=4&sid=%00~"];
  for (const server of [backend, frontend]) {
    for (const target of targets) await raw(server.port, target);
    for (const path of ["/health/live", "/health"]) await fetch(`${server.url}${path}`);
  }
  const names = [{ toString: 1 }, { name: { toString: 1 } }, { name: 7 }, { name: [null] }, { name: "x".repeat(9999) }];
  for (const auth of names) {
    const odd = await stage.enter(backend, ada.room, auth);
    for (const text of [{ toString: 1 }, null, 1, [], Buffer.from("x"), { text: "x" }]) odd.socket.emit("say", text);
    odd.socket.emit("say");
    odd.socket.emit("join", { toString: 1 });
    odd.socket.close();
  }
  for (const auth of [{ participant: { toString: 1 } }, { participant: 1 }]) stage.wait(backend, auth).socket.close();
  for (const roomId of ["", "room_", "x", "room_a/b"]) await stage.refused(backend, roomId);
  ada.socket.emit("say", "Still here?");
  await eventually("it is heard", () => grace.heard.some(({ text }) => text === "Still here?"));
  assert(backend.isRunning() && frontend.isRunning(), "a process has ended");
  return { heard: grace.heard };
}

/** Nobody is matched with somebody whose pod has been killed, or has stopped. */
async function ghosts() {
  await stage.startRedis();
  const quick = { WAITING_INTERVAL: 200 };
  const [killed, stopped, third] = await Promise.all([0, 1, 2].map((n) => stage.startBackend(n, quick)));
  const rooms = [];
  for (const [pod, signal] of [[killed, "SIGKILL"], [stopped, "SIGSTOP"]]) {
    const ghost = await stage.waitInQueue(pod);
    if (signal === "SIGKILL") await pod.kill();
    else pod.signal(signal);
    // The one is known to be gone at once, without its patience being at an end; the other one after that.
    if (signal === "SIGSTOP") await eventually("it is forgotten", async () => !(await stage.isInQueue(ghost)));
    const [ada, grace] = [stage.wait(third), stage.wait(third)];
    await eventually("they share a room", () => ada.room && ada.room === grace.room);
    rooms.push(ada.room);
    ghost.socket.close();
  }
  return { rooms };
}

/** A pod that leaves takes the room along that has been placed on it, and that nobody has come to yet. */
async function promised() {
  await stage.startRedis();
  const pods = await Promise.all([0, 1].map((n) => stage.startBackend(n, NEVER)));
  const [one, two] = pods.map((pod) => stage.wait(pod));
  await eventually("they share a room", () => one.room && one.room === two.room);
  const owner = await stage.owner(one.room);
  const pod = pods.find(({ pod }) => pod === owner);
  pod.signal("SIGTERM");
  return { exit: await pod.ended, owner, ownerAfterwards: await stage.owner(one.room) };
}

/** Rooms that are made at the same time are spread, and no pod gets more than it may have. */
async function placement() {
  await stage.startRedis();
  const pods = await Promise.all([0, 1, 2].map((n) => stage.startBackend(n, NEVER)));
  const people = Array.from({ length: 80 }, (_, n) => stage.wait(pods[n % 3]));
  await eventually("all have a room", () => people.every(({ room }) => room));
  const rooms = [...new Set(people.map(({ room }) => room))];
  const owners = await Promise.all(rooms.map((room) => stage.owner(room)));
  const byPod = Object.fromEntries(pods.map(({ pod }) => [pod, owners.filter((owner) => owner === pod).length]));
  // 60 rooms are all that fit.
  const more = Array.from({ length: 42 }, (_, n) => stage.wait(pods[n % 3]));
  await eventually("two are told that all is full", () => more.filter(({ full, room }) => full && !room).length === 2);
  const placed = new Set([...people, ...more].map(({ room }) => room).filter(Boolean));
  const all = await Promise.all([...placed].map((room) => stage.owner(room)));
  const most = Object.fromEntries(pods.map(({ pod }) => [pod, all.filter((owner) => owner === pod).length]));
  return { rooms: rooms.length, byPod, most };
}

/** Redis has lost everything: who was told "full" gets a room once a pod is known again, and does nothing for it. */
async function forgotten() {
  await stage.startRedis();
  const backend = await stage.startBackend(0, NEVER);
  const early = await stage.waitInQueue(backend);
  await stage.redis(["FLUSHALL"]);
  const late = stage.wait(backend);
  await eventually("both are told that all is full", () => early.full && late.full);
  const beat = { activeRooms: 0, totalParticipants: 0, lastUpdate: Date.now() };
  await stage.redis(["SET", "pod:backend-0:metrics", JSON.stringify(beat)]);
  await eventually("they share a room", () => early.room && early.room === late.room);
  return { room: early.room };
}

/** Redis goes and comes back empty while people wait, and another one joins while it is away. */
async function restarted() {
  const server = await stage.startRedis();
  const [first, second] = await Promise.all([0, 1].map((n) => stage.startBackend(n, NEVER)));
  const early = await stage.waitInQueue(first);
  await server.kill();
  const late = stage.wait(second);
  await eventually("the waiting room is open all the same", () => late.pod);
  await stage.startRedis();
  await eventually("they share a room", () => early.room && early.room === late.room);
  return { room: early.room };
}

/** A pod without Redis lives, is ready if it has ever been, keeps its rooms, writes them again, and can leave. */
async function outage() {
  const backend = await stage.startBackend(0, {}, "listening");
  const status = async (path) => (await fetch(`${backend.url}${path}`)).status;
  const seen = { live: await status("/health/live"), readyBefore: await status("/health/ready") };
  const server = await stage.startRedis();
  await eventually("it is ready", async () => (await status("/health/ready")) === 200);
  const [ada, grace] = await roomOfTwo([backend]);

  await server.kill();
  ada.socket.emit("say", "Without Redis.");
  await eventually("it is heard", () => grace.heard.some(({ text }) => text === "Without Redis."));
  grace.socket.close();
  const again = await stage.enter(backend, ada.room, { name: "Grace" });
  seen.messages = again.messages;
  seen.liveDuring = await status("/health/live");
  seen.readyDuring = await status("/health/ready");

  await stage.startRedis();
  await eventually("the room is assigned again", async () => (await stage.owner(ada.room)) === "backend-0");
  const [fresh] = stage.servers.slice(-1);
  fresh.signal("SIGSTOP"); // it takes commands, and answers nothing
  backend.signal("SIGTERM");
  seen.exit = await backend.ended;
  fresh.signal("SIGCONT");

  await fresh.kill();
  const other = await stage.startBackend(1, {}, "listening");
  other.signal("SIGTERM");
  seen.exitWithout = await other.ended;
  return seen;
}

/** A room that Redis gives to another pod: who is at the former one is sent away, in a way that they come back. */
async function moved() {
  await stage.startRedis();
  const pods = await Promise.all([0, 1].map((n) => stage.startBackend(n, { METRICS_HEARTBEAT_INTERVAL: 200 })));
  const [ada, grace] = await roomOfTwo(pods);
  const owner = await stage.owner(ada.room);
  const other = pods.find(({ pod }) => pod !== owner);
  const value = { podId: other.pod, participantCount: 2, assignedAt: Date.now() + 1000 };
  await stage.redis(["SET", `room:${ada.room}:pod`, JSON.stringify(value)]);
  const reasons = await Promise.all([ada, grace].map(({ left }) => left));
  return { reasons };
}

/** Polling alone, each poll over the next of two routers: in front of a Service that picks any pod, and of a list. */
async function sessions() {
  await stage.startRedis();
  const pods = await Promise.all([0, 1, 2].map((n) => stage.startBackend(n)));
  const service = await ClusterIp.start(pods.map(({ port }) => port));
  const seen = {};
  for (const [name, backend] of [
    ["clusterIp", `127.0.0.1:${service.port}`],
    ["list", pods.map(({ port }) => `127.0.0.1:${port}`).join()],
  ]) {
    const routers = await Promise.all([0, 1].map(() => stage.startRouter(args.router, pods, backend)));
    const ingress = await ClusterIp.start(routers.map(({ port }) => port));
    const people = Array.from({ length: 12 }, () => stage.wait(ingress, {}, { transports: ["polling"] }));
    await eventually("all have a room", () => people.every(({ room }) => room));
    const pollers = Array.from({ length: 6 }, () => stage.wait(ingress, {}, {}));
    const isUpgraded = ({ socket }) => socket.connected && socket.io.engine.transport.name === "websocket";
    await eventually("they are upgraded", () => pollers.every(isUpgraded));
    const errors = [...people, ...pollers].flatMap(({ errors }) => errors);
    seen[name] = { pods: [...new Set(people.map(({ pod }) => pod))].sort(), errors };
    for (const { socket } of [...people, ...pollers]) socket.close();
  }
  return seen;
}

/**
 * Application and routers as the users of deploy/redis/users.acl: what is refused of what they do, and what they may and
 * never do. The routers are one that reads and one that places rooms.
 */
async function rights() {
  const text = readFileSync(USERS, "utf8");
  const users = Object.fromEntries(text.trim().split("\n").map((line) => [line.split(" ")[1], userOf(line)]));
  stage.asker = { name: "test", password: "any" };
  const folder = mkdtempSync(join(tmpdir(), "pod-router-users-"));
  try {
    writeFileSync(join(folder, "users.acl"), `${text}user test on nopass ~* &* +@all\n`);
    await stage.startRedis(join(folder, "users.acl"));
    return { ...(await liveAs(users)), ...(await rightsLeft(users)) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function userOf(line) {
  const words = line.split(" ");
  const after = (sign) => words.filter((word) => word.startsWith(sign)).map((word) => word.slice(1));
  return { name: words[1], password: after(">")[0], commands: after("+") };
}

/** Everything there is: people are matched, enter and leave rooms, rooms are placed, a pod goes. */
async function liveAs({ backend, "pod-router": reader, "pod-router-placing": placer }) {
  const settings = { REDIS_URL: stage.redisUrl(backend) };
  const pods = await Promise.all([0, 1, 2].map((n) => stage.startBackend(n, settings)));
  const addresses = pods.map(({ port }) => `127.0.0.1:${port}`).join();
  const routerAs = (user, onUnassigned) => {
    const settings = { REDIS_URL: stage.redisUrl(user), POD_ROUTER_ON_UNASSIGNED: onUnassigned };
    return stage.startRouter(args.router, pods, addresses, settings);
  };
  const [router, placing] = [await routerAs(reader, "reject"), await routerAs(placer, "assign")];

  const [one, two] = [stage.wait(router), stage.wait(router)];
  await eventually("they share a room", () => one.room && one.room === two.room);
  const [ada, grace] = await Promise.all(["Ada", "Grace"].map((name) => stage.enter(router, one.room, { name })));
  ada.socket.emit("say", "Hello.");
  await eventually("it is heard", () => grace.heard.some(({ text }) => text === "Hello."));
  await stage.enter(placing, "room_of_the_routers", { name: "Ada" });
  const cluster = await fetch(`${router.admin}/health/cluster`).then((answer) => answer.json());

  const pod = pods.find(({ pod }) => pod === grace.heard[0].pod);
  pod.signal("SIGTERM");
  const exit = await pod.ended;
  return { exit, healthyPods: cluster.healthyPods, ownerAfterwards: await stage.owner(one.room) };
}

/** What Redis has refused to anybody, and the commands that a user is allowed and nobody has used. */
async function rightsLeft(users) {
  const log = await stage.redis(["ACL", "LOG"]);
  const told = (entry, name) => entry[entry.indexOf(name) + 1];
  const refused = log.map((entry) => ["username", "reason", "object"].map((name) => told(entry, name)).join(" "));
  const used = [...(await stage.redis(["INFO", "commandstats"])).matchAll(/^cmdstat_([^:]+):calls=[1-9]/gm)];
  const names = used.map(([, name]) => name);
  const granted = Object.values(users).flatMap(({ commands }) => commands);
  return { refused: [...new Set(refused)].sort(), unused: granted.filter((command) => !names.includes(command)) };
}

/** Two who have met in the waiting room, and are in their room. */
async function roomOfTwo(pods) {
  const [one, two] = [stage.wait(pods[0]), stage.wait(pods.at(-1))];
  await eventually("they share a room", () => one.room && one.room === two.room);
  const owner = await stage.owner(one.room);
  const pod = pods.find(({ pod }) => pod === owner);
  return Promise.all(["Ada", "Grace"].map((name) => stage.enter(pod, one.room, { name })));
}

/** Sends a request with this target as it is, and waits for the end of whatever comes. */
function raw(port, target) {
  return new Promise((done) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.write(`GET ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`);
    });
    socket.on("error", () => {}).on("close", done).resume();
  });
}
