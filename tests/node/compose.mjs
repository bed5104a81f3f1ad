// Two people use the demo of deploy/compose in Debian's Chromium: they wait, meet in a room, talk, one leaves and comes
// back; and where there are commands to stop a router and a pod, one of the routers and their pod end.
//
//   node compose.mjs --url http://127.0.0.1:8080/ [--stop-router "docker-compose stop router-1"]
//                    [--stop "docker-compose stop"] [--screenshots FOLDER] [--chromium /usr/bin/chromium] [--deadline 60]

import { execSync } from "node:child_process";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { fail, printLine, readArguments, setDeadline } from "./support.mjs";

// As a StatefulSet names its pods; not what the page shows while it waits.
const POD = /^backend-\d+$/;
const WAITING = "Waiting for somebody else…";
/** What a client sends over a WebSocket that answered its probe: from then on it uses no other transport. */
const ENGINE_IO_UPGRADE = "5";
/** It passes in full only where something fails, or on a machine that is busy with a build. */
const STEP_MS = 45_000;

const args = readArguments({
  url: undefined,
  stop: null,
  "stop-router": null,
  screenshots: null,
  chromium: "/usr/bin/chromium",
  deadline: 60,
});
const steps = [];
const pageErrors = [];
let current = "start";

setDeadline(args.deadline, () => `at "${current}"`);
const browser = await chromium.launch({ executablePath: args.chromium });
const [ada, grace] = await Promise.all([person("Ada"), person("Grace")]);
let room;
let pod;

try {
  await step("one waits", oneWaits);
  await step("two meet on one pod", twoMeet);
  await step("they talk", theyTalk);
  await step("one leaves", oneLeaves);
  await step("and comes back", comesBack);
  if (args["stop-router"]) await step("a router ends", routerEnds);
  if (args.stop) {
    await step("their pod ends", podEnds);
    await step("the API is asked again", apiIsAskedAgain);
    await step("who waits learns that the pod has ended", waiterLearns);
  }
} catch (error) {
  fail(`at "${current}": ${error.message}\n${pageErrors.join("\n")}`);
} finally {
  await browser.close();
}
// Once their pod has ended, errors are what the browser is right to report.
if (pageErrors.length > 0 && !args.stop) fail(pageErrors.join("\n"));
printLine({ steps, room, pod });
process.exit(0);

async function step(name, run) {
  current = name;
  await run();
  steps.push(name);
}

/** A person has a browser context of their own: no cookie or connection is shared. */
async function person(name) {
  const context = await browser.newContext({ viewport: { width: 900, height: 490 } });
  context.setDefaultTimeout(STEP_MS);
  context.on("console", (message) => {
    if (message.type() === "error") pageErrors.push(`${name}: ${message.text()} (${message.location().url})`);
  });
  context.on("weberror", (error) => pageErrors.push(`${name}: ${error.error()}`));
  return { name, context, page: await context.newPage() };
}

async function oneWaits() {
  await enterWaitingRoom(ada);
  await text(ada, "#state", WAITING);
  await screenshot(ada, "waiting");
}

/** The page load of the room is a redirect by the router, which names the pod that everything else then shows. */
async function twoMeet() {
  const redirects = [ada, grace].map(({ page }) =>
    page.waitForResponse((response) => response.url().includes("/experiment/room_")),
  );
  await enterWaitingRoom(grace);
  for (const response of await Promise.all(redirects)) {
    if (response.status() !== 302) throw new Error(`${response.url()} was answered ${response.status()}`);
  }
  for (const each of [ada, grace]) await inTheRoom(each);
}

async function theyTalk() {
  await say(ada, "Hello Grace, which pod are you on?");
  await say(grace, `${pod}, like you.`);
  for (const each of [ada, grace]) {
    await messages(each, ["Ada", "Hello Grace, which pod are you on?", pod], ["Grace", `${pod}, like you.`, pod]);
  }
  await screenshot(ada, "room");
}

async function oneLeaves() {
  await grace.page.close();
  await people(ada, "Ada");
  await text(ada, "#state", "Synchronizing participants…");
  await say(ada, "Grace?");
  await messages(ada, ["Ada", "Hello Grace, which pod are you on?"], ["Grace"], ["Ada", "Grace?"]);
}

/** By the room's address, as from a bookmark: what was said while she was away is in the memory of the room's pod. */
async function comesBack() {
  grace.page = await grace.context.newPage();
  await grace.page.addInitScript(() => sessionStorage.setItem("name", "Grace"));
  await grace.page.goto(new URL(`/experiment/${room}`, args.url).href);
  for (const each of [ada, grace]) await inTheRoom(each);
  await messages(grace, ["Ada", "Hello Grace, which pod are you on?"], ["Grace"], ["Ada", "Grace?"]);
  await say(grace, "Here again.");
  for (const each of [ada, grace]) await messages(each, ["Ada"], ["Grace"], ["Ada"], ["Grace", "Here again.", pod]);
}

/**
 * Whoever was connected through it comes back through the other one, to the same pod. No request has failed. (What was said
 * before is not counted: a room is forgotten when nobody is in it, and both may be on their way at once.)
 */
async function routerEnds() {
  execSync(args["stop-router"], { stdio: "ignore" });
  const words = "Is this the other router?";
  for (const each of [ada, grace]) {
    await people(each, "Ada", "Grace");
    await text(each, "#pod", pod);
  }
  await say(grace, words);
  for (const { name, page } of [ada, grace]) {
    const last = () => page.locator("#messages li").last().innerText();
    await until({ name, page }, last, (seen) => seen.includes(words), "what was said last");
  }
  if (pageErrors.length > 0) throw new Error("a request has failed");
}

/** The room goes on at another pod, with nobody doing anything. What was said is lost with the first. */
async function podEnds() {
  execSync(`${args.stop} ${pod}`, { stdio: "ignore" });
  const ended = pod;
  const shown = () => ada.page.locator("#pod").innerText();
  await until(ada, shown, (seen) => POD.test(seen) && seen !== ended, `another pod than ${ended}`);
  pod = await shown();
  for (const each of [ada, grace]) {
    await text(each, "#pod", pod);
    await people(each, "Ada", "Grace");
  }
  await say(ada, "Still here?");
  for (const each of [ada, grace]) await messages(each, ["Ada", "Still here?", pod]);
}

/** As it has to be while a room is on its way to another pod: who is refused once is not refused for good. */
async function apiIsAskedAgain() {
  let refused = 0;
  const refuse = (route) => route.fulfill({ status: 503, body: `${++refused}` });
  await grace.page.route("**/api/room/**", refuse, { times: 1 });
  await grace.page.reload();
  await text(grace, "#api", pod);
  if (refused !== 1) throw new Error(`the API was refused ${refused} times`);
}

/** What the page says in between is gone within a second: it is written down. */
async function waiterLearns() {
  const mary = await person("Mary");
  // A pod that ends between Engine.IO's probe of the WebSocket and the upgrade to it leaves its client with a transport that
  // it has paused: it notices at its ping timeout only, after 45 seconds.
  const upgraded = new Promise((resolve) => {
    const note = ({ payload }) => payload === ENGINE_IO_UPGRADE && resolve();
    mary.page.on("websocket", (socket) => socket.on("framesent", note));
  });
  await enterWaitingRoom(mary);
  await text(mary, "#state", WAITING);
  await upgraded;
  await mary.page.evaluate(() => {
    const state = document.getElementById("state");
    window.seen = [];
    new MutationObserver(() => window.seen.push(state.textContent)).observe(state, { childList: true });
  });
  execSync(`${args.stop} ${await mary.page.locator("#pod").innerText()}`, { stdio: "ignore" });
  const seen = () => mary.page.evaluate(() => window.seen);
  await until(mary, seen, (all) => all[0] === "Disconnected. Trying again…" && all.at(-1) === WAITING, "both");
  await mary.context.close();
}

async function enterWaitingRoom({ name, page }) {
  await page.goto(args.url);
  await page.fill("#name", name);
  await page.click("#join button");
}

/** Both are shown, and one pod in every place: the first who gets here says which, the others must agree. */
async function inTheRoom(who) {
  await who.page.waitForURL((url) => url.pathname === "/experiment");
  const query = new URL(who.page.url()).searchParams;
  room ??= query.get("roomId");
  pod ??= query.get("pod");
  if (query.get("roomId") !== room || !POD.test(pod)) throw new Error(`${who.name} is at ${who.page.url()}`);
  await text(who, "#room", room);
  await people(who, "Ada", "Grace");
  await text(who, "#state", "Everybody is here.");
  for (const place of ["#pod", "#redirected", "#socket", "#api"]) await text(who, place, pod);
  // It began with polls: the upgrade has reached the pod that holds the session.
  await text(who, "#transport", "by websocket");
}

async function say({ page }, words) {
  await page.fill("#text", words);
  await page.click("#say button");
}

/** Whoever comes later is lower in the list; both orders are right for two who came at once. */
async function people(who, ...names) {
  const shown = async () => (await who.page.locator("#people li").allInnerTexts()).sort();
  await until(who, shown, (seen) => seen.join() === names.sort().join(), `${names} in the room`);
}

/** The lines of the room, each given by its first words. */
async function messages(who, ...lines) {
  const parts = (items) => items.map((item) => [...item.children].map((part) => part.innerText));
  const shown = () => who.page.locator("#messages li").evaluateAll(parts);
  const begins = (seen, line) => line.every((words, at) => seen[at] === words);
  const match = (seen) => seen.length === lines.length && lines.every((line, at) => begins(seen[at], line));
  await until(who, shown, match, `the messages ${JSON.stringify(lines)}`);
}

async function text(who, selector, expected) {
  const shown = () => who.page.locator(selector).innerText();
  await until(who, shown, (seen) => seen === expected, `${JSON.stringify(expected)} in ${selector}`);
}

async function until({ name, page }, look, condition, what) {
  const end = performance.now() + STEP_MS;
  for (;;) {
    const seen = await look();
    if (condition(seen)) return;
    if (performance.now() > end) throw new Error(`${name} does not see ${what}, but ${JSON.stringify(seen)}`);
    await page.waitForTimeout(50);
  }
}

async function screenshot({ page }, name) {
  if (args.screenshots) await page.screenshot({ path: join(args.screenshots, `${name}.png`) });
}
