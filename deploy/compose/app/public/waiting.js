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
  // Polls first, then a WebSocket, as Socket.IO does by itself: the session's id names its pod. Who comes back after a
  // broken connection says who they were: the same participant, whichever pod it is this time.
  let participant;
  const socket = io("/waiting", { auth: (send) => send({ participant }) });
  state.textContent = "Connecting…";
  socket.on("waiting", (welcome) => {
    participant = welcome.participant;
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
  socket.on("disconnect", (reason) => {
    // What room_assigned does.
    if (reason === "io client disconnect") return;
    state.textContent = "Disconnected. Trying again…";
    // Where the pod has said so, the client does not do that by itself.
    if (!socket.active) socket.connect();
  });
  socket.on("connect_error", (error) => (state.textContent = `Not connected: ${error.message}. Trying again…`));
}
