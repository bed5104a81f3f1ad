// Plain WebSocket clients of wspod.mjs that check all that a tunnel must carry.
//
//   node ws.mjs --url ws://127.0.0.1:3001/live/room_a [--clients 10] [--messages 10] [--size 1000] [--deflate]
//     [--expect backend-1] [--deadline 60]
//
// Each message goes as text, as binary and in fragments, and must come back the same.

import { randomBytes } from "node:crypto";
import { on, once } from "node:events";
import WebSocket from "ws";
import { finish, readArguments, secondsSince, setDeadline } from "./support.mjs";

const PROTOCOLS = ["echo.v1", "echo.v2"];
const FRAGMENTS = 3;

const args = readArguments({
  url: undefined,
  clients: 10,
  messages: 10,
  size: 1000,
  deflate: false,
  expect: null,
  deadline: 60,
});
const figures = { connections: 0, text: 0, binary: 0, fragmented: 0, bytes: 0, pings: 0, closes: 0, misrouted: 0 };
const start = performance.now();

setDeadline(args.deadline, () => `so far ${JSON.stringify(figures)}`);
const outcomes = await Promise.allSettled(Array.from({ length: args.clients }, talk));
const failures = outcomes.filter(({ status }) => status === "rejected").map(({ reason }) => reason.message);
finish({ ...figures, failed: failures.length, seconds: secondsSince(start) }, [...new Set(failures)]);

async function talk() {
  const client = await open();
  for (let n = 0; n < args.messages; n += 1) {
    const bytes = randomBytes(args.size);
    // Hexadecimal digits deflate, random bytes do not.
    const text = Buffer.from(bytes.toString("hex").slice(0, args.size));
    await echo(client, "text", text, () => client.socket.send(text.toString()));
    await echo(client, "binary", bytes, () => client.socket.send(bytes));
    await echo(client, "fragmented", bytes, () => sendInFragments(client.socket, bytes));
    await ping(client.socket, String(n));
  }
  // The pod answers a close code with the same one: back here, it has made both ways.
  client.socket.close(4002, "done");
  await expectClose(client, 4002, "done");

  const closing = await open();
  closing.socket.send("close-me");
  await expectClose(closing, 4001, "bye");
}

/** Connects, and checks the handshake and the greeting. */
async function open() {
  const socket = new WebSocket(args.url, PROTOCOLS, { perMessageDeflate: args.deflate });
  // Both listen from the start: the greeting may come together with the 101, a close at any time.
  const client = { socket, messages: on(socket, "message"), closed: once(socket, "close") };
  client.closed.catch(() => {});
  await once(socket, "open");
  figures.connections += 1;
  expectSame("the subprotocol", socket.protocol, PROTOCOLS[1]);
  expectSame("the extensions", socket.extensions, args.deflate ? "permessage-deflate" : "");

  const { data } = await nextMessage(client);
  const pod = data.toString().replace(/^hello /, "");
  if (args.expect !== null && pod !== args.expect) {
    figures.misrouted += 1;
    throw new Error(`connected to ${pod} instead of ${args.expect}`);
  }
  return client;
}

async function echo(client, kind, bytes, send) {
  send();
  const { data, isBinary } = await nextMessage(client);
  expectSame(`an echo of ${kind} is binary`, isBinary, kind !== "text");
  if (!bytes.equals(data)) throw new Error(`an echo of ${kind} came back changed`);
  figures[kind] += 1;
  figures.bytes += bytes.length;
}

function sendInFragments(socket, bytes) {
  const length = Math.ceil(bytes.length / FRAGMENTS);
  for (let n = 0; n < FRAGMENTS; n += 1) {
    socket.send(bytes.subarray(n * length, (n + 1) * length), { fin: n === FRAGMENTS - 1 });
  }
}

async function ping(socket, payload) {
  socket.ping(payload);
  const [pong] = await once(socket, "pong");
  expectSame("the payload of a pong", pong.toString(), payload);
  figures.pings += 1;
}

async function nextMessage({ messages, closed }) {
  const closing = closed.then(([code, reason]) => {
    throw new Error(`closed with ${code} ${reason} where a message was due`);
  });
  const { value } = await Promise.race([messages.next(), closing]);
  return { data: value[0], isBinary: value[1] };
}

async function expectClose({ closed }, code, reason) {
  const [actualCode, actualReason] = await closed;
  expectSame("a close", `${actualCode} ${actualReason}`, `${code} ${reason}`);
  figures.closes += 1;
}

function expectSame(what, actual, expected) {
  if (actual !== expected) throw new Error(`${what}: ${JSON.stringify(actual)} instead of ${JSON.stringify(expected)}`);
}
