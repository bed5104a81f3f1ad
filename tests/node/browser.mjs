// What a page in Debian's Chromium can do with httppod.mjs, from another origin: one JSON value for each URL, alike unless
// somebody on the way makes a difference.
//
//   node browser.mjs --urls http://127.0.0.1:4000,http://127.0.0.1:3001 [--chromium /usr/bin/chromium] [--deadline 60]

import { once } from "node:events";
import { createServer } from "node:http";
import { chromium } from "playwright-core";
import { finish, readArguments, setDeadline } from "./support.mjs";

const args = readArguments({ urls: undefined, chromium: "/usr/bin/chromium", deadline: 60 });
const seen = [];
let doing = "starting";

setDeadline(args.deadline, () => `${doing}, so far ${JSON.stringify(seen)}`);
// The page itself: another port is another origin. Other addresses of 127/8 would be other sites, without cookies.
const server = createServer((_request, response) => response.setHeader("Content-Type", "text/html").end("<!doctype html>"));
server.listen(0, "0.0.0.0");
await once(server, "listening");

const browser = await chromium.launch({ executablePath: args.chromium });
for (const url of args.urls.split(",")) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`http://${new URL(url).hostname}:${server.address().port}/`);
  const base = `${url}/live/room_a`;
  const outcome = {};
  for (const [name, visit] of Object.entries({ cors, cookies, reconnect, events, websocket })) {
    doing = `${name} at ${url}`;
    outcome[name] = await page.evaluate(visit, base);
  }
  seen.push(outcome);
  await context.close();
}
await browser.close();
finish(seen, []);

// What follows runs in the page.

async function cors(base) {
  const preflights = async () => (await fetch(`${base}/preflights`)).json();
  const before = await preflights();
  const headers = { "X-Token": "t" };
  const allowed = await fetch(`${base}/echo`, { method: "PUT", headers, credentials: "include", body: "hello" });
  const text = await allowed.text();
  const made = (await preflights()) - before;
  const refuse = (options) => fetch(`${base}/echo`, options).then(() => "answered", (error) => error.name);
  return {
    preflights: made,
    allowed: [allowed.status, allowed.type, text, allowed.headers.get("x-framing")],
    // Only what the pod exposes can be read.
    hidden: allowed.headers.get("vary"),
    otherHeader: await refuse({ method: "PUT", headers: { "X-Other": "1" } }),
    otherMethod: await refuse({ method: "DELETE", headers }),
  };
}

async function cookies(base) {
  const sent = async (credentials) => {
    const fields = await (await fetch(`${base}/fields`, { credentials })).json();
    return Object.fromEntries(fields.filter(([name]) => /^(cookie|origin|sec-fetch-\w+)$/i.test(name)));
  };
  const before = await sent("include");
  await fetch(`${base}/login`, { method: "POST", credentials: "include" });
  const lower = (fields) => Object.entries(fields).map(([name, value]) => [name.toLowerCase(), value]);
  const named = (fields) => Object.fromEntries(lower(fields).filter(([name]) => name !== "origin"));
  return { before: named(before), after: named(await sent("include")), omitted: named(await sent("omit")) };
}

/** The browser comes back by itself, and says what it has had. */
function reconnect(base) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`${base}/reconnecting`, { withCredentials: true });
    const received = [];
    let interruptions = 0;
    source.onmessage = ({ data, lastEventId }) => {
      received.push([data, lastEventId]);
      if (received.length < 4) return;
      source.close();
      resolve({ received, interruptions });
    };
    source.onerror = () => {
      interruptions += 1;
      if (source.readyState === EventSource.CLOSED) reject(new Error(`closed after ${JSON.stringify(received)}`));
    };
  });
}

/** Each event is asked for once the one before has come: one that is held back would hold up everything. */
function events(base) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(`${base}/events`);
    const received = [];
    source.onmessage = ({ data, lastEventId }) => {
      received.push([data, lastEventId]);
      if (received.length < 3) return void fetch(`${base}/next`);
      source.close();
      resolve(received);
    };
    source.onerror = () => reject(new Error(`an error after ${JSON.stringify(received)}`));
  });
}

async function websocket(base) {
  const open = async () => {
    const socket = new WebSocket(`${base.replace("http", "ws")}/ws`, ["echo.v1", "echo.v2"]);
    socket.binaryType = "arraybuffer";
    const waiting = [];
    const come = [];
    socket.onmessage = ({ data }) => (waiting.length > 0 ? waiting.shift()(data) : come.push(data));
    const closed = new Promise((resolve) => {
      socket.onclose = ({ code, reason, wasClean }) => resolve([code, reason, wasClean]);
    });
    const next = () => (come.length > 0 ? come.shift() : new Promise((resolve) => waiting.push(resolve)));
    return { socket, next, closed, hello: await next() };
  };
  const one = await open();
  // Compresses well, and is longer than any buffer.
  const long = "room ü€😀 ".repeat(50_000);
  one.socket.send(long);
  const text = (await one.next()) === long;
  const bytes = new Uint8Array(100_000).map(() => Math.random() * 256);
  one.socket.send(bytes);
  const back = new Uint8Array(await one.next());
  const binary = back.length === bytes.length && back.every((byte, index) => byte === bytes[index]);
  one.socket.send("close-me");
  const other = await open();
  other.socket.close(4002, "done");
  return {
    protocol: one.socket.protocol,
    extensions: one.socket.extensions,
    hello: one.hello,
    text,
    binary,
    closedByPod: await one.closed,
    closedByPage: await other.closed,
  };
}
