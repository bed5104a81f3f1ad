// What the pods and the clients share: arguments, the ready line, the orderly end, the deadline, the report.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

/**
 * Reads `--name value` arguments. `defaults` names them all: `undefined` makes one required, a number makes it a
 * number, a boolean a switch without a value, and `null` an optional string.
 */
export function readArguments(defaults) {
  const type = (value) => (typeof value === "boolean" ? "boolean" : "string");
  const options = mapValues(defaults, (_, value) => ({ type: type(value) }));
  try {
    const { values } = parseArgs({ options });
    return mapValues(defaults, (name, value) => meant(name, values[name], value));
  } catch (error) {
    fail(error.message, 64);
  }
}

function mapValues(object, map) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, map(name, value)]));
}

function meant(name, typed, fallback) {
  if (typed === undefined) {
    if (fallback === undefined) throw new Error(`--${name} is missing`);
    return fallback;
  }
  if (typeof fallback !== "number") return typed;
  const number = Number(typed);
  if (!Number.isInteger(number) || number < 0) throw new Error(`--${name} ${typed} is not a whole number`);
  return number;
}

/** A JSON value given in the argument itself or, as it may be long, in a file. */
export function readJson(argument) {
  try {
    return JSON.parse(argument.trimStart().startsWith("{") ? argument : readFileSync(argument, "utf8"));
  } catch (error) {
    fail(`neither JSON nor a file of it: ${argument}: ${error.message}`, 64);
  }
}

export function fail(reason, status = 1) {
  console.error(reason);
  process.exit(status);
}

/** One line of JSON on standard output: what the Rust tests read. */
export function printLine(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** Ends the process with `reason()` in words when the seconds are over; the caller ends it before that. */
export function setDeadline(seconds, reason) {
  setTimeout(() => fail(`not done within ${seconds} s: ${reason()}`), seconds * 1000);
}

/** Prints the figures and ends the process, as a failure if there is any reason to. */
export function finish(figures, reasons) {
  // Exiting inside the callback: a pipe may still hold the line when `write` returns.
  process.stdout.write(`${JSON.stringify(figures)}\n`, () => {
    if (reasons.length > 0) fail(reasons.join("; "));
    process.exit(0);
  });
}

export function secondsSince(start) {
  return Number(((performance.now() - start) / 1000).toFixed(3));
}

/**
 * Listens, prints the ready line, and ends with `close()` on SIGTERM, or when standard input closes: a pod must not
 * outlive a test that was killed before it could kill its pods.
 */
export function runPod(server, { pod, port }, close) {
  server.on("error", (error) => fail(`${pod}: ${error.message}`));
  server.listen(port, "127.0.0.1", () => printLine({ ready: true, pod, port: server.address().port }));

  let closing = false;
  const end = async () => {
    if (closing) return;
    closing = true;
    // Whoever keeps a connection open must not keep the pod alive.
    setTimeout(() => process.exit(0), 2000).unref();
    server.closeIdleConnections();
    await close();
    process.exit(0);
  };
  process.on("SIGTERM", end);
  process.stdin.on("end", end).on("error", end).resume();
}

/**
 * The HTTP side of every pod: `/_stats` tells what the pod has done so far, any other path answers what reached it.
 */
export function answerHttp(pod, stats) {
  return (request, response) => {
    let bodyLength = 0;
    request.on("data", (chunk) => (bodyLength += chunk.length));
    request.on("end", () => {
      const { method, url, headers } = request;
      const answer = url === "/_stats" ? { pod, ...stats() } : { pod, method, url, headers, bodyLength };
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify(answer));
    });
  };
}
