// What the Socket.IO client programs share.

import { Agent } from "node:http";
import { io } from "socket.io-client";
import { fail } from "./support.mjs";

const TRANSPORTS = {
  polling: ["polling"],
  websocket: ["websocket"],
  upgrade: ["polling", "websocket"],
};

// Clients of different rooms share kept-alive connections here, as they do behind an ingress: the router has to choose
// by request, not by connection. (Left to itself, the client would open a connection for every request.)
const agent = new Agent({ keepAlive: true });

/** A client of its own connection that names its room in the query, as the application's front end does. */
export function connect(url, roomId, transport) {
  const transports = TRANSPORTS[transport];
  if (!transports) fail(`--transport ${transport} is none of ${Object.keys(TRANSPORTS).join(", ")}`, 64);
  return io(url, { query: { roomId }, transports, forceNew: true, agent });
}

/** What `socket` ends up with: an upgrade is due where one was asked for, and a surprise elsewhere. */
export function settledTransport(transport) {
  return transport === "upgrade" ? "websocket" : transport;
}
