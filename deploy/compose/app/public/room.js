// A room's page. Every request of it names the room, so that every one of them reaches the room's pod.

const RETRY_MS = 1000;
const query = new URLSearchParams(location.search);
const room = query.get("roomId");
let askAgain;
const byId = (id) => document.getElementById(id);

byId("room").textContent = room ?? "No room";
showPod("redirected", query.get("pod"));

if (room) join();
else byId("state").textContent = "The address names no room.";

function join() {
  // The room is in the query of every request, polls and reconnections included; no router reads `auth`.
  const socket = io("/experiment", { query: { roomId: room }, auth: { name: sessionStorage.getItem("name") } });

  socket.on("welcome", ({ pod, participants, messages }) => {
    showPod("pod", pod);
    showPod("socket", pod);
    showPeople(participants);
    byId("messages").replaceChildren(...messages.map(line));
    askApi();
  });
  socket.on("presence", ({ participants }) => showPeople(participants));
  socket.on("said", (message) => {
    byId("messages").append(line(message));
    byId("messages").lastElementChild.scrollIntoView({ block: "nearest" });
  });
  socket.on("connect", () => {
    showTransport();
    socket.io.engine.on("upgrade", showTransport);
  });
  socket.on("disconnect", () => (byId("state").textContent = "Disconnected. Trying again…"));
  socket.on("connect_error", (error) => {
    byId("state").textContent = `Not connected: ${error.message}. Trying again…`;
    // After a refusal by the pod, for instance because the room has just moved, the client does not do so by itself.
    if (!socket.active) setTimeout(() => socket.connect(), RETRY_MS);
  });

  byId("say").addEventListener("submit", (event) => {
    event.preventDefault();
    socket.emit("say", byId("text").value);
    byId("text").value = "";
  });

  function showTransport() {
    byId("transport").textContent = `by ${socket.io.engine.transport.name}`;
  }
}

/** Again while it is refused: the room may be on its way to another pod. */
async function askApi() {
  clearTimeout(askAgain);
  const response = await fetch(`/api/room/${room}/state`).catch(() => ({ ok: false, status: "0, no answer" }));
  showPod("api", response.ok ? (await response.json()).pod : `status ${response.status}`);
  if (!response.ok) askAgain = setTimeout(askApi, RETRY_MS);
}

function showPeople(participants) {
  byId("people").replaceChildren(...participants.map((name) => element("li", name)));
  byId("state").textContent = participants.length > 1 ? "Everybody is here." : "Synchronizing participants…";
}

function line({ from, text, pod }) {
  const item = document.createElement("li");
  item.append(element("strong", from), element("span", text), podMark(element("span", pod), pod));
  return item;
}

function showPod(id, pod) {
  if (!pod) return;
  byId(id).textContent = pod;
  podMark(byId(id), pod);
}

function podMark(target, pod) {
  target.classList.add("pod");
  target.dataset.pod = pod.split("-").at(-1) % 3;
  return target;
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
