// The servers and the people of demo.mjs.

import { spawn } from "node:child_process";
import { createServer, connect } from "node:net";
import { createClient } from "redis";
import { io } from "socket.io-client";

const APP = new URL("../../deploy/compose/app/", import.meta.url).pathname;
/** It passes in full only where something fails, or on a machine that is busy with a build. */
const PATIENCE_MS = 60_000;
const GLANCE_MS = 10;

/** Waits until the condition holds, and fails in its name where it does not. */
export async function eventually(what, condition) {
  const end = performance.now() + PATIENCE_MS;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not so: ${what}`);
    await new Promise((done) => setTimeout(done, GLANCE_MS));
  }
}

/** A program, killed with this one. */
class Server {
  output = "";

  constructor(name, port, program, programArgs, env) {
    this.pod = name;
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.child = spawn("setpriv", ["--pdeathsig", "KILL", program, ...programArgs], {
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on("data", (text) => (this.output += text));
    this.ended = new Promise((done) => this.child.on("exit", (code, signal) => done(signal ?? code)));
  }

  isRunning() {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  signal(signal) {
    this.child.kill(signal);
  }

  async kill() {
    this.signal("SIGKILL");
    await this.ended;
  }
}

/** A Service's one address: each connection goes to the next server. */
export class ClusterIp {
  static async start(ports) {
    let turn = 0;
    const server = createServer((socket) => {
      const other = connect(ports[turn++ % ports.length], "127.0.0.1");
      socket.pipe(other).pipe(socket);
      for (const [one, two] of [[socket, other], [other, socket]]) one.on("error", () => two.destroy());
      for (const [one, two] of [[socket, other], [other, socket]]) one.on("close", () => two.destroy());
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    const { port } = server.address();
    return { port, url: `http://127.0.0.1:${port}` };
  }
}

export class Stage {
  servers = [];
  /** As whom this program asks Redis. */
  asker;
  #redisPort;
  #client;

  /** Starts Redis, empty; where there has been one, in its place. Its users may be those of a file. */
  async startRedis(aclFile) {
    this.#redisPort ??= await freePort();
    const port = String(this.#redisPort);
    const options = ["--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no"];
    if (aclFile) options.push("--aclfile", aclFile);
    const server = this.#start("redis", this.#redisPort, "redis-server", options, {});
    await eventually("redis-server is ready", () => server.output.includes("Ready to accept connections"));
    return server;
  }

  /** Starts a backend pod, and waits until it says this. */
  async startBackend(n, settings = {}, word = "ready") {
    this.#redisPort ??= await freePort();
    const [name, port] = [`backend-${n}`, await freePort()];
    const env = { POD_NAME: name, PORT: port, HOST: "127.0.0.1", REDIS_URL: this.redisUrl() };
    const server = this.#start(name, port, "node", [`${APP}backend.mjs`], { ...env, ...settings });
    await eventually(`${name} is ${word}`, () => server.output.includes(`"message":"${word}"`));
    return server;
  }

  async startFrontend() {
    const port = await freePort();
    const server = this.#start("frontend", port, "node", [`${APP}frontend.mjs`], { PORT: port, HOST: "127.0.0.1" });
    await eventually("the front end listens", () => server.output.includes("listening"));
    return server;
  }

  async startRouter(program, pods, backend, settings = {}) {
    const [port, admin] = [await freePort(), await freePort()];
    const server = this.#start("router", port, program, ["serve"], {
      REDIS_URL: this.redisUrl(),
      POD_ROUTER_LISTEN: `127.0.0.1:${port}`,
      POD_ROUTER_ADMIN_LISTEN: `127.0.0.1:${admin}`,
      POD_ROUTER_POD: pods.map((pod) => `${pod.pod}=127.0.0.1:${pod.port}`).join(),
      POD_ROUTER_DEFAULT_BACKEND: backend,
      POD_ROUTER_SESSION_AFFINITY: "sid",
      // A Service picks a pod for a connection: next to none is used again.
      POD_ROUTER_UPSTREAM_IDLE: "1ms",
      ...settings,
    });
    server.admin = `http://127.0.0.1:${admin}`;
    const isReady = () => fetch(`${server.admin}/readyz`).then(({ ok }) => ok, () => false);
    await eventually("the router is ready", isReady);
    return server;
  }

  #start(...about) {
    const server = new Server(...about);
    this.servers.push(server);
    return server;
  }

  /** What the servers have said, for failures. */
  said() {
    return this.servers.map(({ pod, output }) => `${pod}:\n${output}`).join("\n");
  }

  /** Of a user `{name, password}`, if there are any. */
  redisUrl(user) {
    return `redis://${user ? `${user.name}:${user.password}@` : ""}127.0.0.1:${this.#redisPort}`;
  }

  /** Asks Redis as a user who may. */
  async redis(command) {
    const client = await createClient({ url: this.redisUrl(this.asker) }).connect();
    const answer = await client.sendCommand(command);
    await client.close();
    return answer;
  }

  async owner(room) {
    const value = await this.redis(["GET", `room:${room}:pod`]);
    return value && JSON.parse(value).podId;
  }

  /** Somebody in the waiting room, who joins whenever they get there. */
  wait(server, auth = {}, options = { transports: ["websocket"] }) {
    const socket = io(`${server.url}/waiting`, { forceNew: true, auth, ...options });
    const person = { socket, errors: [] };
    socket.on("waiting", ({ pod, participant }) => {
      Object.assign(person, { pod, participant });
      socket.emit("join");
    });
    socket.on("full", () => (person.full = true));
    socket.on("room_assigned", ({ roomId }) => (person.room ??= roomId));
    socket.on("connect_error", (error) => person.errors.push(error.message));
    socket.on("disconnect", (reason) => person.errors.push(reason));
    return person;
  }

  /** The same, once Redis knows. */
  async waitInQueue(server) {
    const person = this.wait(server);
    await eventually("somebody waits", async () => person.pod && (await this.isInQueue(person)));
    return person;
  }

  /** By the set's size as well: it says nothing of who it is. */
  async isInQueue({ participant }) {
    const members = await this.redis(["SMEMBERS", "waiting:demo:participants"]);
    return participant ? members.includes(participant) : members.length > 0;
  }

  /** Somebody in a room. */
  async enter(server, room, auth) {
    const options = { forceNew: true, query: { roomId: room }, auth, transports: ["websocket"] };
    const socket = io(`${server.url}/experiment`, options);
    const person = { socket, room, heard: [] };
    socket.on("said", (message) => person.heard.push(message));
    person.left = new Promise((done) => socket.on("disconnect", done));
    const welcome = await new Promise((done, failed) => socket.on("welcome", done).on("connect_error", failed));
    return Object.assign(person, { messages: welcome.messages });
  }

  /** Somebody whom the room's namespace has to turn away. */
  refused(server, roomId) {
    const socket = io(`${server.url}/experiment`, { forceNew: true, query: { roomId }, transports: ["websocket"] });
    return new Promise((done, failed) => {
      socket.on("connect_error", () => done(socket.close()));
      socket.on("welcome", () => failed(new Error(`${roomId} was let in`)));
    });
  }
}

function freePort() {
  const server = createServer();
  return new Promise((done) => {
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}
