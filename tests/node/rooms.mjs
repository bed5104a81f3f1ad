// The load of a real application: rooms full of Socket.IO clients, all at once, each of which checks all it gets.
//
//   node rooms.mjs --url http://127.0.0.1:3001 --transport polling|websocket|upgrade
//     [--rooms 50] [--participants 4] [--messages 10] [--expect '{"room_a":"backend-1",…}' or a file of it]
//     [--deadline 60]
//
// With --expect its first rooms are used and must be answered by the pods it names; without, a room may be at any pod,
// as long as it is one.

import { setTimeout } from "node:timers/promises";
import { connect, settledTransport } from "./clients.mjs";
import { fail, finish, readArguments, readJson, secondsSince } from "./support.mjs";

const LINGER_MS = 200;
const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, byte) => byte);

const args = readArguments({
  url: undefined,
  transport: undefined,
  rooms: 50,
  participants: 4,
  messages: 10,
  expect: null,
  deadline: 60,
});
// Room to pod; without --expect, as its first answer told.
const expected = args.expect ? readJson(args.expect) : {};
const roomsAtPod = {};
const names = args.expect
  ? Object.keys(expected).slice(0, args.rooms)
  : Array.from({ length: args.rooms }, (_, index) => `room_load-${index}`);
if (names.length < args.rooms) fail(`--expect names ${names.length} rooms, --rooms asks for ${args.rooms}`, 64);

const figures = {
  events: 0,
  acks: 0,
  binary: 0,
  broadcasts: 0,
  misrouted: 0,
  lost: 0,
  duplicated: 0,
  reordered: 0,
  corrupt: 0,
  reconnects: 0,
};
// The first of each kind of trouble says enough; hundreds would hide it.
const reasons = new Map();
const start = performance.now();

setTimeout(args.deadline * 1000).then(report);
const sockets = await Promise.all(names.map(runRoom));
// A duplicate comes after the last one that was missing.
await setTimeout(LINGER_MS);
for (const socket of sockets.flat()) checkTransport(socket);
report();

async function runRoom(room) {
  const participants = Array.from({ length: args.participants }, (_, index) => join(room, `participant-${index}`));
  // What is said before the last one has joined would not reach it.
  await Promise.all(participants.map(({ connected }) => connected));
  await Promise.all(participants.map(talk));
  await Promise.all(participants.map(({ heardAll }) => heardAll));
  return participants.map(({ socket }) => socket);
}

/** One participant, who keeps a record of what the others say. */
function join(room, name) {
  const socket = connect(args.url, room, args.transport);
  const connected = new Promise((resolve) => socket.once("connect", resolve));
  socket.on("connect_error", (error) => note("connecting", `${room}: ${error.message} ${error.context?.status ?? ""}`));
  socket.on("disconnect", (reason) => {
    figures.reconnects += 1;
    note("connection", `${room}: ${reason}`);
  });

  const heard = new Map();
  let missing = args.participants * args.messages;
  figures.lost += missing;
  const heardAll = new Promise((resolve) => {
    socket.on("said", ({ pod, from, n }) => {
      figures.broadcasts += 1;
      checkPod(room, pod);
      const numbers = heard.get(from) ?? new Set();
      heard.set(from, numbers);
      if (numbers.has(n)) return count("duplicated", `${room}: ${from} heard twice with ${n}`);
      if (n !== numbers.size) count("reordered", `${room}: ${from} heard with ${n} instead of ${numbers.size}`);
      numbers.add(n);
      figures.lost -= 1;
      missing -= 1;
      if (missing === 0) resolve();
    });
  });
  return { room, name, socket, connected, heardAll };
}

async function talk({ room, name, socket }) {
  for (let n = 0; n < args.messages; n += 1) {
    // The first half of the messages crosses the upgrade while it happens, the second half follows it.
    if (args.transport === "upgrade" && n === Math.floor(args.messages / 2)) await upgraded(socket);
    socket.emit("say", { from: name, n });
    figures.events += 1;
    const text = `${room} ${name} ${n} ü€😀`;
    const bytes = Buffer.concat([EVERY_BYTE, Buffer.from(text)]);
    await Promise.all([
      echo(room, socket, text, (data) => data === text),
      echo(room, socket, bytes, (data) => Buffer.isBuffer(data) && bytes.equals(data)),
    ]);
  }
}

async function echo(room, socket, data, isSame) {
  figures.events += 1;
  figures.lost += 1;
  const answer = await socket.emitWithAck("echo", data).catch(() => null);
  // Its connection ended before: it stays counted as lost.
  if (!answer) return;
  figures.lost -= 1;
  figures.acks += 1;
  checkPod(room, answer.pod);
  if (!isSame(answer.data)) count("corrupt", `${room}: an echo came back changed`);
  else if (Buffer.isBuffer(data)) figures.binary += 1;
}

function upgraded(socket) {
  const { engine } = socket.io;
  return new Promise((resolve) => {
    if (engine.transport.name === "websocket") resolve();
    else engine.once("upgrade", resolve);
  });
}

function checkTransport(socket) {
  const { name } = socket.io.engine.transport;
  if (name !== settledTransport(args.transport)) note("transport", `a client ended on ${name}`);
}

function checkPod(room, pod) {
  (roomsAtPod[pod] ??= new Set()).add(room);
  expected[room] ??= pod;
  if (pod !== expected[room]) count("misrouted", `${room} was at ${pod} instead of ${expected[room]}`);
}

function count(figure, reason) {
  figures[figure] += 1;
  note(figure, reason);
}

function note(kind, reason) {
  if (!reasons.has(kind)) reasons.set(kind, `${kind}: ${reason}`);
}

/** Every answer still due is lost, be it that it never came or that the deadline did. */
function report() {
  const seconds = secondsSince(start);
  if (figures.lost > 0) note("lost", `${figures.lost} answers or broadcasts still missing after ${seconds} s`);
  const pods = Object.fromEntries(Object.entries(roomsAtPod).map(([pod, rooms]) => [pod, rooms.size]));
  finish({ ...figures, seconds, pods }, [...reasons.values()]);
}
