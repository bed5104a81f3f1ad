// A backend pod that speaks plain WebSocket: it greets with its name, then echoes.
//
//   node wspod.mjs --pod backend-1 [--port 0]

import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { answerHttp, readArguments, runPod } from "./support.mjs";

// Above this an echo leaves in fragments, as streaming servers send.
const FRAGMENT = 1024 * 1024;

const { pod, port } = readArguments({ pod: undefined, port: 0 });
const stats = { connections: 0, messages: 0, closes: {} };

const server = createServer(answerHttp(pod, () => stats));
const wss = new WebSocketServer({
  server,
  perMessageDeflate: true,
  // The second choice of the client, so that a router that answers for the pod is found out.
  handleProtocols: (offered) => [...offered][1] ?? false,
});

wss.on("connection", (socket) => {
  stats.connections += 1;
  // Sent at once, this is likely to share a TCP segment with the 101: a router must not lose it.
  socket.send(`hello ${pod}`);
  socket.on("message", (data, isBinary) => {
    stats.messages += 1;
    if (!isBinary && data.toString() === "close-me") socket.close(4001, "bye");
    else echo(socket, data, isBinary);
  });
  socket.on("close", (code, reason) => {
    const key = `${code} ${reason}`.trim();
    stats.closes[key] = (stats.closes[key] ?? 0) + 1;
  });
  // A client that sends garbage loses its connection, not the pod.
  socket.on("error", (error) => console.error(`${pod}: ${error.message}`));
});

runPod(server, { pod, port }, async () => {
  for (const socket of wss.clients) socket.close(1001, "going away");
  await new Promise((resolve) => server.close(resolve));
});

function echo(socket, data, binary) {
  for (let start = 0; start === 0 || start < data.length; start += FRAGMENT) {
    const fin = start + FRAGMENT >= data.length;
    socket.send(data.subarray(start, start + FRAGMENT), { binary, fin });
  }
}
