// The waiting room. Any pod can hold any participant, and any pod can match: who waits is in Redis (queue.mjs), which
// also carries the news to the pods that hold those who were matched.

import { randomUUID } from "node:crypto";
import { coalesced, guarded } from "./guard.mjs";

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * `placement()` returns the pod for the next room and the version of what it was chosen by. What is done at once when
 * somebody joins is also done every `interval` milliseconds: it is how a participant is known to be there still, and
 * what makes up for whatever has failed, Redis and its memory included.
 */
export function openWaitingRoom(namespace, { pod, queue, placement, participantsPerRoom, interval, report }) {
  /** Who waits here: participant ids and their sockets. */
  const waiting = new Map();
  const refresh = guarded(report, coalesced(holdAndMatch));
  const refreshing = setInterval(refresh, interval);

  namespace.on("connection", guarded(report, open));

  function open(socket) {
    // Whoever comes back, from another pod perhaps, is the same participant: nobody is matched with themselves.
    const { participant: former } = socket.handshake.auth;
    const participant = typeof former === "string" && UUID.test(former) ? former : randomUUID();
    const on = (event, handler) => socket.on(event, guarded(report, handler));
    socket.emit("waiting", { pod, participant });
    on("join", () => {
      waiting.set(participant, socket);
      return refresh();
    });
    on("disconnect", async () => {
      if (waiting.get(participant) !== socket) return;
      waiting.delete(participant);
      await queue.release([participant]);
    });
  }

  async function holdAndMatch() {
    const held = await queue.hold([...waiting.keys()]);
    held.matched.forEach(tell);
    if (held.waiting >= participantsPerRoom) await match();
  }

  async function match() {
    for (;;) {
      const room = `room_${randomUUID().slice(0, 8)}`;
      const outcome = await queue.match({ ...(await placement()), count: participantsPerRoom, room });
      if (outcome === "few") return;
      if (outcome === "full") return waiting.forEach((socket) => socket.emit("full"));
    }
  }

  /** The assignment is written by now: whoever hears of the room finds its pod. */
  function tell({ participant, room }) {
    waiting.get(participant)?.emit("room_assigned", { roomId: room, redirectUrl: `/experiment/${room}` });
    waiting.delete(participant);
  }

  return {
    tell,
    refresh,
    async leave() {
      clearInterval(refreshing);
      const held = [...waiting.keys()];
      waiting.clear();
      await queue.release(held);
    },
  };
}
