// Which pod a new room goes to. Decides, and asks nobody.

/**
 * The best pod for a room of this size, or null where all are full. A pod's rooms are those it counts itself and those
 * that are on their way to it. `freshFor`: how old a heartbeat may be, in milliseconds.
 */
export function choosePod(pods, { limits, participants, freshFor, now }) {
  const loads = pods.map((pod) => {
    const roomsTaken = (pod.activeRooms ?? 0) + pod.reservedRooms;
    const placesTaken = (pod.totalParticipants ?? 0) + pod.reservedRooms * participants;
    return {
      name: pod.name,
      age: now - (pod.lastUpdate ?? 0),
      isOpen: roomsTaken < limits.rooms && placesTaken + participants <= limits.participants,
      rooms: roomsTaken / limits.rooms,
      places: placesTaken / limits.participants,
    };
  });
  const open = loads.filter(({ age, isOpen }) => age < freshFor && isOpen);
  const load = ({ rooms, places }) => (rooms + places) / 2;
  const mean = open.reduce((sum, pod) => sum + load(pod), 0) / (open.length || 1);
  const score = (pod) =>
    35 * (1 - pod.rooms) +
    35 * (1 - pod.places) +
    20 * (0.5 + (mean - load(pod)) / 2) +
    10 * (1 - Math.max(pod.age, 0) / freshFor);
  return open.sort((a, b) => score(b) - score(a))[0]?.name ?? null;
}
