// Rooms, in the memory of this process: who is there, and what has been said. This is why a room has one pod.

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

  state(room) {
    const { people = new Map(), messages = [] } = this.#rooms.get(room) ?? {};
    return { participants: [...people.values()], messages };
  }

  ids() {
    return [...this.#rooms.keys()];
  }

  totals() {
    const totalParticipants = [...this.#rooms.values()].reduce((sum, { people }) => sum + people.size, 0);
    return { activeRooms: this.#rooms.size, totalParticipants, rooms: this.ids() };
  }
}

/** `changed` is called when this pod holds more or less than before. */
export function openExperiment(namespace, { pod, directory, rooms, changed }) {
  // A pod that took in a room it does not own would split it. A router that is right never lets this happen.
  namespace.use(async (socket, next) => {
    const room = String(socket.handshake.query.roomId ?? "");
    const owner = await directory.owner(room).catch(() => null);
    next(owner === pod ? undefined : new Error(`${room || "no room"} belongs to ${owner ?? "no pod"}, this is ${pod}`));
  });

  namespace.on("connection", (socket) => {
    const room = socket.handshake.query.roomId;
    const name = String(socket.handshake.auth.name || "someone").slice(0, LONGEST_NAME);
    socket.join(room);
    rooms.enter(room, socket.id, name);
    socket.emit("welcome", { pod, room, ...rooms.state(room) });
    tellPresence();
    changed();

    socket.on("say", (text) => {
      const message = { from: name, text: String(text).slice(0, LONGEST_TEXT), pod };
      rooms.say(room, message);
      namespace.to(room).emit("said", message);
    });
    socket.on("disconnect", () => {
      if (!rooms.exit(room, socket.id)) tellPresence();
      changed();
    });

    function tellPresence() {
      namespace.to(room).emit("presence", { pod, participants: rooms.state(room).participants });
    }
  });
}
