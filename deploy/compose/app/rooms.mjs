// Rooms, in the memory of this process: who is there, and what has been said. This is why a room has one pod.

import { guarded } from "./guard.mjs";

const ROOM = /^room_[\w-]{1,123}$/;

/** What a room remembers for those who come later. */
const MESSAGES_KEPT = 100;
const LONGEST_TEXT = 500;
const LONGEST_NAME = 40;

export class Rooms {
  #rooms = new Map();

  enter(room, id, name) {
    const entered = this.#rooms.get(room) ?? { people: new Map(), messages: [] };
    this.#rooms.set(room, entered);
    entered.people.set(id, name);
  }

  /** Whether the room is empty now, and gone. */
  exit(room, id) {
    const left = this.#rooms.get(room);
    left?.people.delete(id);
    return left?.people.size === 0 && this.#rooms.delete(room);
  }

  say(room, message) {
    const { messages } = this.#rooms.get(room);
    messages.push(message);
    messages.splice(0, messages.length - MESSAGES_KEPT);
  }

  has(room) {
    return this.#rooms.has(room);
  }

  state(room) {
    const { people = new Map(), messages = [] } = this.#rooms.get(room) ?? {};
    return { participants: [...people.values()], messages };
  }

  /** How many are in each. */
  sizes() {
    return new Map([...this.#rooms].map(([room, { people }]) => [room, people.size]));
  }
}

/** `changed` is called when this pod holds more or less than before. */
export function openExperiment(namespace, { pod, directory, rooms, changed, report }) {
  namespace.use(async (socket, next) => {
    const { roomId } = socket.handshake.query;
    const refusal = typeof roomId === "string" && ROOM.test(roomId) ? await refuse(roomId) : "no room";
    next(refusal ? new Error(refusal) : undefined);
  });

  /**
   * Why the room is not entered here, or nothing. A pod that took in a room it does not own would split it. A router
   * that is right never lets this happen; while Redis is away both of us go by what we remember.
   */
  async function refuse(room) {
    try {
      const owner = await directory.owner(room);
      return owner !== pod && `${room} belongs to ${owner ?? "no pod"}, this is ${pod}`;
    } catch (error) {
      report(error);
      return !rooms.has(room) && `nobody can say whose ${room} is, this is ${pod}`;
    }
  }

  namespace.on("connection", guarded(report, open));

  function open(socket) {
    const room = socket.handshake.query.roomId;
    const name = cut(socket.handshake.auth.name, LONGEST_NAME) || "someone";
    const on = (event, handler) => socket.on(event, guarded(report, handler));
    socket.data.room = room;
    socket.join(room);
    rooms.enter(room, socket.id, name);
    socket.emit("welcome", { pod, room, ...rooms.state(room) });
    tellPresence();
    changed();

    on("say", (text) => {
      const message = { from: name, text: cut(text, LONGEST_TEXT), pod };
      if (!message.text) return;
      rooms.say(room, message);
      namespace.to(room).emit("said", message);
    });
    on("disconnect", () => {
      if (!rooms.exit(room, socket.id)) tellPresence();
      changed();
    });

    function tellPresence() {
      namespace.to(room).emit("presence", { pod, participants: rooms.state(room).participants });
    }
  }

  return {
    /** Sends who is in these rooms away, to come back by the router. A Socket.IO disconnect would keep them away. */
    close(moved) {
      for (const socket of namespace.sockets.values()) if (moved.includes(socket.data.room)) socket.conn.close();
    },
  };
}

/** What a client sent, where it is text: it may be anything, and have a `toString` that is no function. */
function cut(value, length) {
  return typeof value === "string" ? value.trim().slice(0, length) : "";
}
