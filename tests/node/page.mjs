// Clicks through the page of `pod-router dev` in Debian's Chromium, as its reader would.
//
//   node page.mjs --url http://127.0.0.1:3001/ [--screenshot page.png] [--chromium /usr/bin/chromium] [--deadline 60]

import { chromium } from "playwright-core";
import { finish, readArguments, setDeadline } from "./support.mjs";

const ROOM = "room_page";
const REDIRECTED_ROOM = "room_demo";
const ECHO = "hello from the page";
// As a StatefulSet names its pods; not what the page may show while it waits for the answer.
const POD = /^[\w-]+-\d+$/;
const STEP_MS = 10_000;

const args = readArguments({ url: undefined, screenshot: null, chromium: "/usr/bin/chromium", deadline: 60 });
const steps = [];
const pods = [];
const pageErrors = [];
let failure = null;

setDeadline(args.deadline, () => `after the steps ${steps.join(", ") || "(none)"}`);
const browser = await chromium.launch({ executablePath: args.chromium });
const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
context.setDefaultTimeout(STEP_MS);
context.on("console", (message) => {
  if (message.type() === "error") pageErrors.push(`${message.text()} (${message.location().url})`);
});
context.on("weberror", (error) => pageErrors.push(String(error.error())));
const page = await context.newPage();

try {
  await step("load", () => page.goto(args.url));
  await step("open-room", openRoom);
  await step("echo", echo);
  await step("move", move);
  await step("redirect", redirect);
} catch (error) {
  // The first line says what was waited for; the rest is the browser's log.
  failure = `${failure}: ${error.message.split("\n")[0]}`;
}
if (args.screenshot) await page.screenshot({ path: args.screenshot, fullPage: true });
await browser.close();
finish({ steps, pods }, [failure, ...pageErrors.map((error) => `error on the page: ${error}`)].filter(Boolean));

async function step(name, run) {
  failure = name;
  await run();
  failure = null;
  steps.push(name);
}

function part(role) {
  return page.locator(`#rooms [data-room="${ROOM}"] [data-role="${role}"]`);
}

async function openRoom() {
  await page.fill("#room-name", ROOM);
  await page.click("#open-room");
  pods.push(await podShown("a pod", (text) => POD.test(text)));
}

async function echo() {
  await part("ws-input").fill(ECHO);
  await part("ws-send").click();
  await until("the echo and its pod in the log", async () => {
    const log = await part("ws-log").innerText();
    return log.includes(ECHO) && log.includes(pods[0]);
  });
}

async function move() {
  const [from] = pods;
  const choices = await part("move").locator("option").evaluateAll((options) => options.map(({ value }) => value));
  const to = choices.find((value) => value !== "" && value !== from);
  if (!to) throw new Error(`no pod to move to among ${JSON.stringify(choices)}`);
  await part("move").selectOption(to);
  await part("ask").click();
  pods.push(await podShown(to, (text) => text === to));
}

async function redirect() {
  const tab = await context.newPage();
  const response = await tab.goto(new URL(`/experiment/${REDIRECTED_ROOM}`, args.url).href);
  const first = await response.request().redirectedFrom()?.response();
  if (first?.status() !== 302) throw new Error(`answered ${first?.status() ?? response.status()} instead of 302`);
  const { pathname, searchParams } = new URL(tab.url());
  if (pathname !== "/experiment" || searchParams.get("roomId") !== REDIRECTED_ROOM || !searchParams.get("pod")) {
    throw new Error(`landed on ${tab.url()}`);
  }
  if (!response.ok()) throw new Error(`the landing page was answered ${response.status()}`);
  await tab.close();
}

async function podShown(what, isDue) {
  let shown;
  await until(`${what} as the pod that answered`, async () => {
    shown = (await part("pod").innerText()).trim();
    return isDue(shown);
  });
  return shown;
}

async function until(what, condition) {
  const end = performance.now() + STEP_MS;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`${what} did not show`);
    await page.waitForTimeout(50);
  }
}
