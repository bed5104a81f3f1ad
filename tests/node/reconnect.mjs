// Clients of one room that live through a restart of its pod.
//
//   node reconnect.mjs --url http://127.0.0.1:3001 --room room_a --transport polling|websocket|upgrade
//     [--clients 4] [--expect backend-1] [--deadline 60]
//
// Prints {"connected":n,…} once all are connected; the test then restarts the pod, and {"reconnected":n,…} follows
// when every client has lost its connection and has been answered by the expected pod again.

import { EventEmitter, once } from "node:events";
import { connect } from "./clients.mjs";
import { fail, finish, printLine, readArguments, secondsSince, setDeadline } from "./support.mjs";

const args = readArguments({
  url: undefined,
  room: undefined,
  transport: undefined,
  clients: 4,
  expect: null,
  deadline: 60,
});

let expected = args.expect;
let firstLoss;
let lastError = "no error was met";
const changes = new EventEmitter();
const clients = Array.from({ length: args.clients }, start);
setDeadline(args.deadline, () => `${JSON.stringify(clients)}, ${lastError}`);

await all((client) => client.answered);
printLine({ connected: args.clients, pod: expected });

await all((client) => client.losses > 0);
await all((client) => client.answered);
const losses = clients.reduce((sum, client) => sum + client.losses, 0);
finish({ reconnected: args.clients, pod: expected, losses, seconds: secondsSince(firstLoss) }, []);

async function all(condition) {
  while (!clients.every(condition)) await once(changes, "change");
}

function start() {
  const client = { losses: 0, answered: false };
  const socket = connect(args.url, args.room, args.transport);
  // Asked anew on each connection: an answer that was lost with the last one must not count.
  socket.on("connect", () =>
    socket.emit("whoami", ({ pod }) => {
      expected ??= pod;
      if (pod !== expected) fail(`${args.room} was at ${pod} instead of ${expected}`);
      client.answered = true;
      changes.emit("change");
    }),
  );
  socket.on("disconnect", (reason) => {
    // The one reason after which Socket.IO does not reconnect by itself.
    if (reason === "io server disconnect") fail(`the pod refused a client: ${reason}`);
    firstLoss ??= performance.now();
    client.losses += 1;
    client.answered = false;
    changes.emit("change");
  });
  socket.on("connect_error", (error) => {
    lastError = `last error: ${error.message} ${error.context?.status ?? ""}`.trim();
  });
  return client;
}
