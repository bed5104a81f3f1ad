// A pod on Node's HTTP server and `ws`, every default left as it is. What each path answers is listed in
// tests/it/peers/contract.rs; the last ones are for the browser of browser.mjs.
//
//   node httppod.mjs --pod backend-0 [--port 0]

import { once } from "node:events";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";
import { readArguments, runPod } from "./support.mjs";

const PARTS = ["one", "two", "three"];
const LARGE = Buffer.alloc(256 * 4096, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));

const { pod, port } = readArguments({ pod: undefined, port: 0 });
// Requests that wait for ever: how many have come, and how many of their clients have gone.
const hanging = { come: 0, gone: 0 };
let sendNext = () => {};
let preflights = 0;

const answers = {
  async echo(request, response) {
    const body = [];
    for await (const data of request) body.push(data);
    response.setHeader("X-Framing", request.headers["transfer-encoding"] === "chunked" ? "chunked" : "length");
    response.end(Buffer.concat(body));
  },
  fields: (request, response) => json(response, pairs(request.rawHeaders)),
  parts(_request, response) {
    for (const part of PARTS) response.write(part);
    response.end();
  },
  large(_request, response) {
    response.setHeader("Content-Length", LARGE.length);
    response.end(LARGE);
  },
  nothing: (_request, response) => response.writeHead(204).end(),
  unchanged: (_request, response) => response.writeHead(304, { ETag: '"v1"' }).end(),
  odd: (_request, response) =>
    response.writeHead(299, "Fine by me", [
      ["Set-Cookie", "a=1"],
      ["Set-Cookie", "b=2; Path=/"],
    ]).end(),
  // Server-sent events: one at once, and another each time `next` is asked for.
  async events(_request, response) {
    response.writeHead(200, { "Content-Type": "text/event-stream", "X-Accel-Buffering": "no" });
    for (let number = 0; number < 3; number += 1) {
      if (number > 0) await new Promise((resolve) => (sendNext = resolve));
      response.write(`id: ${number}\ndata: event ${number}\n\n`);
    }
    response.end();
  },
  next(_request, response) {
    sendNext();
    response.end();
  },
  hang(_request, response) {
    hanging.come += 1;
    response.on("close", () => (hanging.gone += 1));
  },
  hanging: (_request, response) => json(response, hanging),
  // A login: the cookies count from here on.
  login(_request, response) {
    response.setHeader("Set-Cookie", ["session=s3cr3t; HttpOnly; Path=/", "theme=dark; Max-Age=60; Path=/live/"]);
    json(response, "welcome");
  },
  preflights: (_request, response) => json(response, preflights),
  // One event a connection: the browser has to come back for the next, and says which was the last.
  reconnecting(request, response) {
    const last = Number(request.headers["last-event-id"] ?? 0);
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.end(`retry: 20\nid: ${last + 1}\ndata: after ${last}\n\n`);
  },
};

const server = createServer((request, response) => {
  allowOrigin(request, response);
  const name = new URL(request.url, "http://pod").pathname.split("/").at(-1);
  if (request.headers["access-control-request-method"]) {
    preflights += 1;
    response.writeHead(204).end();
  } else if (Object.hasOwn(answers, name)) answers[name](request, response);
  else response.writeHead(404).end();
});

/** The only CORS headers there are: what a page of another origin needs to send its cookies and its own header. */
function allowOrigin(request, response) {
  const { origin } = request.headers;
  if (!origin) return;
  response.setHeader("Access-Control-Allow-Origin", origin);
  response.setHeader("Access-Control-Allow-Credentials", "true");
  response.setHeader("Access-Control-Allow-Headers", "X-Token");
  response.setHeader("Access-Control-Allow-Methods", "PUT");
  response.setHeader("Access-Control-Expose-Headers", "X-Framing");
  response.setHeader("Vary", "Origin");
}

function json(response, value) {
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify(value));
}

function pairs(list) {
  return Array.from({ length: list.length / 2 }, (_, index) => list.slice(2 * index, 2 * index + 2));
}

const wss = new WebSocketServer({
  server,
  perMessageDeflate: true,
  // The second choice of the client, so that a router that answers for the pod is found out.
  handleProtocols: (offered) => [...offered][1] ?? false,
});

wss.on("connection", (socket) => {
  socket.send(`hello ${pod}`);
  socket.on("message", (data, binary) => {
    if (!binary && data.toString() === "close-me") socket.close(4001, "bye");
    else socket.send(data, { binary });
  });
  socket.on("error", (error) => console.error(`${pod}: ${error.message}`));
});

runPod(server, { pod, port }, async () => {
  for (const socket of wss.clients) socket.close(1001, "going away");
  server.close();
  await once(server, "close");
});
