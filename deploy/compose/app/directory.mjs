// What lies in Redis: who owns a room, how full the pods are, who waits. The keys are those pod-router reads.
//
//   room:<roomId>:pod                    {"podId","participantCount","assignedAt"}   written here, read by pod-router
//   pod:<podId>:metrics                  {"activeRooms","totalParticipants",…}       the heartbeat
//   waiting:<experimentId>:participants  a set of participant ids

/** An assignment nobody has renewed for this long is of a room that nobody is in. */
const ASSIGNMENT_SECONDS = 3600;

/** A pod that has been silent for this long is not given rooms: three heartbeats. */
const FRESH_MS = 180_000;

/**
 * Writes an assignment. `assignedAt` is the room's epoch: in Redis's own time, and above what is stored, so that
 * routers that know the older assignment follow the newer one, however the clocks of the pods differ.
 */
const ASSIGN = `
  local time = redis.call('TIME')
  local epoch = time[1] * 1000 + math.floor(time[2] / 1000)
  local stored = redis.call('GET', KEYS[1])
  if stored then epoch = math.max(epoch, cjson.decode(stored).assignedAt + 1) end
  local value = string.format('{"podId":%s,"participantCount":%d,"assignedAt":%.0f}',
    cjson.encode(ARGV[1]), ARGV[2], epoch)
  redis.call('SET', KEYS[1], value, 'EX', ARGV[3])
  return value`;

/** Deletes an assignment only while it names this pod. */
const RELEASE = `
  local stored = redis.call('GET', KEYS[1])
  if stored and cjson.decode(stored).podId == ARGV[1] then return redis.call('DEL', KEYS[1]) end
  return 0`;

/** Takes this many members of a set at once, or none: two pods must not match the same participant. */
const TAKE = `
  if redis.call('SCARD', KEYS[1]) < tonumber(ARGV[1]) then return {} end
  return redis.call('SPOP', KEYS[1], ARGV[1])`;

export class Directory {
  #redis;
  #limits;

  constructor(redis, limits) {
    this.#redis = redis;
    this.#limits = limits;
  }

  async assign(room, pod, participantCount) {
    const args = [pod, String(participantCount), String(ASSIGNMENT_SECONDS)];
    return JSON.parse(await this.#redis.eval(ASSIGN, { keys: [roomKey(room)], arguments: args }));
  }

  /** The pod of a room, or null. */
  async owner(room) {
    const value = await this.#redis.get(roomKey(room));
    return value && JSON.parse(value).podId;
  }

  async beat(pod, { activeRooms, totalParticipants, rooms }) {
    const { rss } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    const metrics = {
      activeRooms,
      totalParticipants,
      cpuUsage: Math.round((user + system) / (process.uptime() * 10_000)),
      memoryUsage: Math.round(rss / 1_048_576),
      lastUpdate: Date.now(),
    };
    await this.#redis.set(metricsKey(pod), JSON.stringify(metrics));
    await Promise.all(rooms.map((room) => this.#redis.expire(roomKey(room), ASSIGNMENT_SECONDS)));
  }

  /** Takes the pod and its rooms out. */
  async leave(pod, rooms) {
    await this.#redis.del(metricsKey(pod));
    await Promise.all(rooms.map((room) => this.release(room, pod)));
  }

  async release(room, pod) {
    await this.#redis.eval(RELEASE, { keys: [roomKey(room)], arguments: [pod] });
  }

  async wait(experiment, participant) {
    await this.#redis.sAdd(waitingKey(experiment), participant);
  }

  async stopWaiting(experiment, participant) {
    await this.#redis.sRem(waitingKey(experiment), participant);
  }

  /** As many participants as a room needs, no longer waiting; an empty list while there are fewer. */
  async takeWaiting(experiment, count) {
    return this.#redis.eval(TAKE, { keys: [waitingKey(experiment)], arguments: [String(count)] });
  }

  /** The best pod for a room of this size, or null where all are full. */
  async choosePod(participantCount) {
    const { rooms, participants } = this.#limits;
    const open = (await this.#pods()).filter(
      (pod) =>
        Date.now() - pod.lastUpdate < FRESH_MS &&
        pod.activeRooms < rooms &&
        pod.totalParticipants + participantCount <= participants,
    );
    const load = (pod) => (pod.activeRooms / rooms + pod.totalParticipants / participants) / 2;
    const mean = open.reduce((sum, pod) => sum + load(pod), 0) / (open.length || 1);
    const score = (pod) =>
      35 * (1 - pod.activeRooms / rooms) +
      35 * (1 - pod.totalParticipants / participants) +
      20 * (0.5 + (mean - load(pod)) / 2) +
      10 * (1 - (Date.now() - pod.lastUpdate) / FRESH_MS);
    const scored = open.map((pod) => ({ pod: pod.name, score: score(pod) }));
    return scored.sort((a, b) => b.score - a.score)[0]?.pod ?? null;
  }

  async #pods() {
    const pods = [];
    for await (const keys of this.#redis.scanIterator({ MATCH: "pod:*:metrics" })) {
      for (const key of keys) {
        const value = await this.#redis.get(key);
        if (value) pods.push({ name: key.split(":")[1], ...JSON.parse(value) });
      }
    }
    return pods;
  }
}

const roomKey = (room) => `room:${room}:pod`;
const metricsKey = (pod) => `pod:${pod}:metrics`;
const waitingKey = (experiment) => `waiting:${experiment}:participants`;
