// The Node router one would write: http-proxy, ioredis, a cache of two seconds.
//   node router.mjs PORT REDIS_PORT PODS      PODS: JSON, pod name to host:port
import http from "node:http";
import httpProxy from "http-proxy";
import Redis from "ioredis";

const [port, redisPort, pods] = [Number(process.argv[2]), Number(process.argv[3]), JSON.parse(process.argv[4])];
const redis = new Redis({ host: "127.0.0.1", port: redisPort, commandTimeout: 250 });
const proxy = httpProxy.createProxyServer({ agent: new http.Agent({ keepAlive: true, maxSockets: 256 }), xfwd: true });
const cache = new Map();
const counts = new Map();

function roomOf(request) {
  const [path, query] = request.url.split("?", 2);
  const inPath = path.split("/").find((segment) => /^room_[\w-]+$/.test(segment));
  if (inPath) return inPath;
  return path.startsWith("/socket.io/") ? new URLSearchParams(query).get("roomId") : null;
}

async function podOf(room) {
  if (!room) return "backend-0";
  const known = cache.get(room);
  if (known && known.until > Date.now()) return known.pod;
  const value = await redis.get(`room:${room}:pod`);
  const pod = value ? JSON.parse(value).podId : "backend-0";
  cache.set(room, { pod, until: Date.now() + 2000 });
  return pod;
}

const count = (code) => counts.set(code, (counts.get(code) ?? 0) + 1);

const server = http.createServer(async (request, response) => {
  try {
    const room = roomOf(request);
    const pod = await podOf(room);
    response.on("finish", () => count(response.statusCode));
    if (request.url.startsWith("/experiment/") && (request.headers.accept ?? "").includes("text/html")) {
      const location = `/experiment?roomId=${room}&pod=${pod}`;
      response.writeHead(302, { Location: location, Vary: "Accept", "Cache-Control": "no-store", "Content-Length": 0 });
      response.end();
      return;
    }
    proxy.web(request, response, { target: `http://${pods[pod]}` }, () => response.writeHead(502).end());
  } catch {
    response.writeHead(503).end();
  }
});
server.on("upgrade", async (request, socket, head) => {
  socket.on("error", () => socket.destroy());
  const pod = await podOf(roomOf(request));
  proxy.ws(request, socket, head, { target: `http://${pods[pod]}` }, () => socket.destroy());
});
server.keepAliveTimeout = 120_000;
server.listen(port, "127.0.0.1", 4096);
