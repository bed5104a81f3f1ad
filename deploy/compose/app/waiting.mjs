// The waiting room. Any pod can hold any participant, and any pod can match: who waits is in Redis, and the Socket.IO
// adapter carries the news to participants who are connected to other pods.

import { randomUUID } from "node:crypto";

const EXPERIMENT = "demo";

/** `report` is given what went wrong with Redis; the participant stays connected, and may join again. */
export function openWaitingRoom(namespace, { pod, directory, participantsPerRoom, report }) {
  namespace.on("connection", (socket) => {
    const participant = randomUUID();
    socket.join(participant);
    socket.emit("waiting", { pod });
    socket.on("join", () => join(socket, participant).catch(report));
    socket.on("disconnect", () => directory.stopWaiting(EXPERIMENT, participant).catch(report));
  });

  async function join(socket, participant) {
    await directory.wait(EXPERIMENT, participant);
    // Whoever went away meanwhile was taken out of the queue before being put into it.
    if (!socket.connected) return directory.stopWaiting(EXPERIMENT, participant);
    await match();
  }

  async function match() {
    const matched = await directory.takeWaiting(EXPERIMENT, participantsPerRoom);
    if (matched.length === 0) return;
    const owner = await directory.choosePod(matched.length);
    if (!owner) {
      await Promise.all(matched.map((participant) => directory.wait(EXPERIMENT, participant)));
      return namespace.to(matched).emit("full");
    }
    const room = `room_${randomUUID().slice(0, 8)}`;
    // First the assignment, then the news: whoever hears of the room finds its pod.
    await directory.assign(room, owner, matched.length);
    namespace.to(matched).emit("room_assigned", { roomId: room, redirectUrl: `/experiment/${room}` });
  }
}
