// The front end: static files, and `/experiment` for the page of a room, which reads the room from its query.
//
// Settings: PORT, HOST.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname } from "node:path";

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css" };
const FILES = new Map([
  ["/", "index.html"],
  ["/experiment", "experiment.html"],
  ["/waiting.js", "waiting.js"],
  ["/room.js", "room.js"],
  ["/style.css", "style.css"],
]);

const server = createServer(async (request, response) => {
  // As it came, and not through `URL`, which throws at some: `//`, for one.
  const path = request.url.replace(/[?#].*$/s, "");
  if (path === "/health") return response.end("ok");
  const name = FILES.get(path);
  if (!name) return response.writeHead(404, { "Content-Type": "text/plain" }).end("not found\n");
  try {
    const body = await readFile(new URL(`public/${name}`, import.meta.url));
    const type = `${TYPES[extname(name)]}; charset=utf-8`;
    response.writeHead(200, { "Content-Type": type, "Cache-Control": "no-cache" }).end(body);
  } catch (error) {
    console.log(JSON.stringify({ message: "failed", error: error.message }));
    response.writeHead(500).end();
  }
});
server.keepAliveTimeout = 120_000;
server.listen(Number(process.env.PORT ?? 8080), process.env.HOST ?? "0.0.0.0", () => {
  console.log(JSON.stringify({ message: "listening", port: server.address().port }));
});
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => {
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
}
