-- wrk's script: GETs for one room after the other, in turn or at random.
--   wrk … -s walk.lua URL -- PATH ORDER FIRST ROOMS [FIELD…]
--   PATH: "/api/room/room_%d/state"     ORDER: "turn" or "random"     FIELD: "Accept: */*"
local before, after, random, first, rooms
local sent = 0

function init(args)
  local left, right = args[1]:match("^(.*)%%d(.*)$")
  random, first, rooms = args[2] == "random", tonumber(args[3]), tonumber(args[4])
  local fields = "Host: bench\r\n"
  for n = 5, #args do fields = fields .. args[n] .. "\r\n" end
  before, after = "GET " .. left, right .. " HTTP/1.1\r\n" .. fields .. "\r\n"
end

-- Bare strings: wrk.format would cost the load's core a tenth of what it can send.
function request()
  local room = first + (random and math.random(0, rooms - 1) or sent % rooms)
  sent = sent + 1
  return before .. room .. after
end

function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"done":%d,"failed":%d,"seconds":%f}\n', summary.requests, failed, summary.duration / 1e6))
end
