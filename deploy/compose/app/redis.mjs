// The connections to Redis: one for commands, one for what is published. Both come back by themselves, for ever.

import { createClient } from "redis";
import { within } from "./guard.mjs";

/** A command that has no answer by then has failed, as far as its caller is concerned. */
const DEADLINE_MS = 2000;
const CONNECT_MS = 2000;
const LONGEST_PAUSE_MS = 1000;

export class Redis {
  #commands;
  #subscriber;

  constructor(url, report) {
    // The default gives up after some errors.
    const reconnectStrategy = (retries) => Math.min(50 * 2 ** retries, LONGEST_PAUSE_MS);
    const socket = { connectTimeout: CONNECT_MS, reconnectStrategy };
    // What cannot be asked now fails now: by the time Redis is back, what a queue held would no longer be true.
    this.#commands = createClient({ url, socket, disableOfflineQueue: true }).on("error", report);
    this.#subscriber = createClient({ url, socket }).on("error", () => {}); // the other one says the same
  }

  get isReady() {
    return this.#commands.isReady && this.#subscriber.isReady;
  }

  /** `act` is called each time that Redis is found, the first time and again. */
  onReady(act) {
    this.#commands.on("ready", act);
  }

  /** Returns once connected, however long that takes. From then on `hear` gets what is published to the channel. */
  async connect(channel, hear) {
    await Promise.all([this.#commands.connect(), this.#subscriber.connect()]);
    await this.#subscriber.subscribe(channel, hear);
  }

  /** Runs what `send` makes of the client. */
  run(send) {
    return within(DEADLINE_MS, send(this.#commands), "Redis");
  }

  script(text, keys, values) {
    return this.run((client) => client.eval(text, { keys, arguments: values.map(String) }));
  }
}
