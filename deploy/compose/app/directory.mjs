// Who owns a room, and how full the pods are. The first two keys are those pod-router reads.
//
//   room:<roomId>:pod      {"podId","participantCount","assignedAt"}
//   pod:<podId>:metrics    {"activeRooms","totalParticipants",…}: the heartbeat
//   pod:<podId>:reserved   rooms on their way to the pod, not in its heartbeat yet, and when each is given up
//   placements             a number that grows with each room that is placed

/** An assignment nobody has renewed for this long is of a room that nobody is in. */
const ASSIGNMENT_SECONDS = 3600;

/** How long a room's place is kept for participants who have been told of it and have not come. */
const RESERVED_MS = 30_000;

/**
 * For scripts. `assignedAt` is the room's epoch: in Redis's own time, and above what is stored, so that routers that
 * know the older assignment follow the newer one, however the clocks of the pods differ.
 */
const LUA = `
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)

  local function stored(key)
    local value = redis.call('GET', key)
    local read, assignment = pcall(cjson.decode, value or '')
    return read and type(assignment) == 'table' and assignment or nil
  end

  local function assign(key, pod, participants)
    local before = stored(key)
    local epoch = math.max(now, before and tonumber(before.assignedAt) and before.assignedAt + 1 or 0)
    local value = string.format('{"podId":%s,"participantCount":%d,"assignedAt":%.0f}',
      cjson.encode(pod), participants, epoch)
    redis.call('SET', key, value, 'EX', ${ASSIGNMENT_SECONDS})
  end`;

/** For scripts, with the above: gives a room to a pod. */
export const PLACE = `${LUA}
  local function place(room, pod, participants)
    redis.call('INCR', 'placements')
    redis.call('ZADD', 'pod:' .. pod .. ':reserved', now + ${RESERVED_MS}, room)
    assign('room:' .. room .. ':pod', pod, participants)
  end`;

/**
 * The heartbeat and the pod's rooms in one step: no reader finds a room in both counts, or in neither. A room that
 * Redis has lost is assigned again; those that it knows at another pod are returned.
 */
const BEAT = `${LUA}
  local pod, metrics, reserved = ARGV[1], KEYS[1], KEYS[2]
  redis.call('SET', metrics, ARGV[2])
  redis.call('ZREMRANGEBYSCORE', reserved, '-inf', now)
  local moved = {}
  for i = 3, #ARGV, 2 do
    local room, participants = ARGV[i], ARGV[i + 1]
    local key = 'room:' .. room .. ':pod'
    local assignment = stored(key)
    redis.call('ZREM', reserved, room)
    if not assignment then
      assign(key, pod, participants)
    elseif assignment.podId == pod then
      redis.call('EXPIRE', key, ${ASSIGNMENT_SECONDS})
    else
      table.insert(moved, room)
    end
  end
  return moved`;

/**
 * Deletes the pod's heartbeat, and the assignments of its rooms where they still name it: of those that somebody is in, and
 * of those that somebody is on the way to. A choice of this pod that was made before counts no more.
 */
const LEAVE = `${LUA}
  local function release(room)
    local key = 'room:' .. room .. ':pod'
    local assignment = stored(key)
    if assignment and assignment.podId == ARGV[1] then redis.call('DEL', key) end
  end
  redis.call('INCR', 'placements')
  for _, room in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do release(room) end
  for i = 2, #ARGV do release(ARGV[i]) end
  redis.call('DEL', KEYS[1], KEYS[2])`;

export class Directory {
  #redis;

  constructor(redis) {
    this.#redis = redis;
  }

  /** The pod of a room, or null. */
  async owner(room) {
    const value = await this.#redis.run((client) => client.get(`room:${room}:pod`));
    return value && JSON.parse(value).podId;
  }

  /** Tells how full a pod is, from its rooms' sizes. Returns those of them that are another pod's by now. */
  async beat(pod, sizes) {
    const { rss } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    const metrics = {
      activeRooms: sizes.size,
      totalParticipants: [...sizes.values()].reduce((sum, size) => sum + size, 0),
      cpuUsage: Math.round((user + system) / (process.uptime() * 10_000)),
      memoryUsage: Math.round(rss / 1_048_576),
      lastUpdate: Date.now(),
    };
    return this.#redis.script(BEAT, keysOf(pod), [pod, JSON.stringify(metrics), ...[...sizes].flat()]);
  }

  /** Takes the pod and its rooms out. */
  async leave(pod, rooms) {
    await this.#redis.script(LEAVE, keysOf(pod), [pod, ...rooms]);
  }

  /** How full the pods are, and how many rooms had been placed before that was read. */
  async pods() {
    const version = (await this.#redis.run((client) => client.get("placements"))) ?? "0";
    const pods = await Promise.all((await this.#redis.run(podNames)).map((name) => this.#pod(name)));
    return { version, pods: pods.filter(Boolean) };
  }

  async #pod(name) {
    const [metrics, reserved] = keysOf(name);
    // In one step, as the heartbeat is written.
    const both = (client) => client.multi().get(metrics).zCard(reserved).exec();
    const [value, reservedRooms] = await this.#redis.run(both);
    try {
      return { name, reservedRooms, ...JSON.parse(value) };
    } catch {
      return null;
    }
  }
}

async function podNames(client) {
  const names = new Set();
  for await (const keys of client.scanIterator({ MATCH: "pod:*:metrics", COUNT: 1000 })) {
    for (const key of keys) names.add(key.split(":")[1]);
  }
  return [...names];
}

const keysOf = (pod) => [`pod:${pod}:metrics`, `pod:${pod}:reserved`];
