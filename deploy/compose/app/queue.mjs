// Who waits, in Redis: any pod can hold a participant, and any pod can match.
//
//   waiting:<experimentId>:participants      a set of participant ids
//   waiting:<experimentId>:holders           by participant: when a process last said they are there, and its channel
//   waiting:<experimentId>:room:<id>         the room of a participant who has been matched, for a minute
//
// A participant is there as long as a process says so, again and again, and that process listens to its channel: one
// that is killed stops listening at once, one that hangs or is cut off stops saying it.

import { PLACE } from "./directory.mjs";

/** For scripts. Takes out who has gone, and returns the others. */
const PRESENT = `${PLACE}
  local participants, holders, rooms, patience = KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[1])

  local function forget(id)
    redis.call('SREM', participants, id)
    redis.call('HDEL', holders, id)
  end

  local function present()
    local there = {}
    for _, id in ipairs(redis.call('SMEMBERS', participants)) do
      local said, channel = string.match(redis.call('HGET', holders, id) or '', '^(%d+) (.+)$')
      if said and now - said < patience and redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0 then
        table.insert(there, { id = id, channel = channel })
      else
        forget(id)
      end
    end
    return there
  end`;

/**
 * These participants wait, and are held by this channel. Returns how many wait in all; after that, those who do not any
 * more, each with their room: the news of it may have been lost.
 */
const HOLD = `${PRESENT}
  local matched = {}
  for i = 3, #ARGV do
    local room = redis.call('GET', rooms .. ARGV[i])
    if room then
      table.insert(matched, ARGV[i])
      table.insert(matched, room)
    else
      redis.call('SADD', participants, ARGV[i])
      redis.call('HSET', holders, ARGV[i], string.format('%.0f %s', now, ARGV[2]))
    end
  end
  return { #present(), unpack(matched) }`;

/** These participants do not wait any more, unless another process holds them by now. */
const RELEASE = `${PRESENT}
  for i = 3, #ARGV do
    local holder = redis.call('HGET', holders, ARGV[i])
    if holder and string.match(holder, ' (.+)$') == ARGV[2] then forget(ARGV[i]) end
  end`;

/**
 * From waiting to a room in one step: whatever fails, nobody is in between, and no two pods match the same participant.
 * `again` where rooms have been placed since the pod was chosen: the choice may be another one now.
 */
const MATCH = `${PRESENT}
  local count, pod, version, room = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
  local there = present()
  if #there < count then return 'few' end
  if (redis.call('GET', 'placements') or '0') ~= version then return 'again' end
  if pod == '' then return 'full' end
  place(room, pod, count)
  for i = 1, count do
    forget(there[i].id)
    redis.call('SET', rooms .. there[i].id, room, 'EX', 60)
    redis.call('PUBLISH', there[i].channel, cjson.encode({ participant = there[i].id, room = room }))
  end
  return 'matched'`;

export class Queue {
  /** What this process listens to: its own, for one that comes back under the same pod name is another process. */
  channel;
  #redis;
  #keys;
  #patience;

  /** `patience`: after how many milliseconds of silence a participant is not there any more. */
  constructor(redis, { experiment, channel, patience }) {
    this.#redis = redis;
    this.channel = channel;
    this.#patience = patience;
    this.#keys = ["participants", "holders", "room:"].map((name) => `waiting:${experiment}:${name}`);
  }

  /** Says that these participants wait here. */
  async hold(participants) {
    const [waiting, ...matched] = await this.#script(HOLD, [this.channel, ...participants]);
    const rooms = Array.from({ length: matched.length / 2 }, (_, n) => matched.slice(2 * n, 2 * n + 2));
    return { waiting, matched: rooms.map(([participant, room]) => ({ participant, room })) };
  }

  async release(participants) {
    await this.#script(RELEASE, [this.channel, ...participants]);
  }

  /** Gives the room to this many who wait: "matched", "few", "full" (`pod` is null) or "again". */
  async match({ count, pod, version, room }) {
    return this.#script(MATCH, [count, pod ?? "", version, room]);
  }

  #script(text, values) {
    return this.#redis.script(text, this.#keys, [this.#patience, ...values]);
  }
}
