// Clients without a room, polling only, whose requests take turns between several routers.
//
//   node sessions.mjs --routers 3001,3002 [--clients 500] [--cookies] [--addresses] [--deadline 60]
//
// Prints a line with the sessions by pod once all are connected. Then it obeys lines on standard input:
//   use 3001      from here on only these routers get connections; a line says so
//   shout         one client's broadcast has to reach all; a line when it has
//   settle        a line with the sessions lost since the last one, by pod, once every client is connected again
//   end           ends

import { EventEmitter, once } from "node:events";
import { Agent } from "node:http";
import { connect as dial } from "node:net";
import { createInterface } from "node:readline";
import { io } from "socket.io-client";
import { fail, printLine, readArguments, setDeadline } from "./support.mjs";

const args = readArguments({ routers: undefined, clients: 500, cookies: false, addresses: false, deadline: 60 });

let routers = args.routers.split(",").map(Number);
let turn = 0;
let lastError = "no error was met";
const changes = new EventEmitter();

// A connection for each request, each to the next router: nothing on the way remembers a client.
const agent = new Agent({ keepAlive: false });
agent.createConnection = (_options, connected) => {
  const socket = dial(routers[turn++ % routers.length], "127.0.0.1");
  socket.once("connect", () => connected?.(null, socket));
  return socket;
};

const clients = Array.from({ length: args.clients }, start);
setDeadline(args.deadline, () => `${clients.filter((client) => client.pod).length} of ${clients.length}, ${lastError}`);

await all((client) => client.pod);
printLine({ connected: clients.length, pods: count((client) => client.pod) });

for await (const line of createInterface({ input: process.stdin })) {
  const [command, value] = line.split(" ");
  if (command === "use") {
    routers = value.split(",").map(Number);
    printLine({ using: routers });
  }
  if (command === "shout") await shout();
  if (command === "settle") await settle();
  if (command === "end") process.exit(0);
}
process.exit(0);

async function all(condition) {
  while (!clients.every(condition)) await once(changes, "change");
}

function count(key) {
  const counts = {};
  for (const client of clients) counts[key(client)] = (counts[key(client)] ?? 0) + 1;
  return counts;
}

async function shout() {
  for (const client of clients) client.heard = 0;
  clients[0].socket.emit("shout", 1);
  await all((client) => client.heard === 1);
  printLine({ heard: clients.length, pods: count((client) => client.pod) });
}

async function settle() {
  await all((client) => client.pod);
  const lost = {};
  for (const client of clients) for (const pod of client.lost.splice(0)) lost[pod] = (lost[pod] ?? 0) + 1;
  printLine({ lost, pods: count((client) => client.pod) });
}

function start(_, n) {
  const client = { pod: null, lost: [], heard: 0 };
  const options = { transports: ["polling"], forceNew: true, agent, reconnectionDelay: 100, reconnectionDelayMax: 500 };
  if (args.cookies) options.withCredentials = true;
  // As an ingress names them: each client comes from an address of its own.
  if (args.addresses) options.extraHeaders = { "X-Forwarded-For": `198.51.${n >> 8}.${n & 255}` };
  const socket = io(`http://127.0.0.1:${routers[0]}`, options);
  client.socket = socket;
  socket.on("connect", () =>
    socket.emit("whoami", ({ pod }) => {
      client.pod = pod;
      changes.emit("change");
    }),
  );
  socket.on("shouted", () => {
    client.heard += 1;
    changes.emit("change");
  });
  socket.on("disconnect", (reason) => {
    if (reason === "io server disconnect") fail(`a pod refused a client: ${reason}`);
    client.lost.push(client.pod ?? "unknown");
    client.pod = null;
    changes.emit("change");
  });
  socket.on("connect_error", (error) => {
    lastError = `last error: ${error.message} ${error.context?.status ?? ""} ${error.context?.responseText ?? ""}`;
  });
  return client;
}
