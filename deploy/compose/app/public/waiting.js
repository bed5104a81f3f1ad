// The waiting room's page. No room yet, so any pod may answer.

const state = document.getElementById("state");
const pod = document.getElementById("pod");
const form = document.getElementById("join");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = document.getElementById("name").value.trim();
  sessionStorage.setItem("name", name);
  for (const element of form.elements) element.disabled = true;
  state.hidden = false;
  wait();
});

function wait() {
  // WebSocket only: the polls of a session without a room would go to one pod and then to another, which refuses them.
  // A session with a room may poll, see room.js.
  const socket = io("/waiting", { transports: ["websocket"] });
  state.textContent = "Connecting…";
  socket.on("waiting", (welcome) => {
    pod.textContent = welcome.pod;
    pod.dataset.pod = welcome.pod.split("-").at(-1) % 3;
    state.textContent = "Waiting for somebody else…";
    socket.emit("join");
  });
  socket.on("full", () => (state.textContent = "Every pod is full. You keep your place."));
  socket.on("room_assigned", ({ roomId, redirectUrl }) => {
    state.textContent = `You are in ${roomId}`;
    socket.disconnect();
    // A page load that names the room: pod-router answers it with a redirect that names the pod as well.
    location.assign(redirectUrl);
  });
  socket.on("connect_error", (error) => (state.textContent = `Not connected: ${error.message}. Trying again…`));
}
