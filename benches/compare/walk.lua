-- wrk's script: GETs that walk through rooms, one after the other.
--   wrk … -s walk.lua URL -- PATH FIRST ROOMS [FIELD…]     PATH: "/api/room/room_%d/state", FIELD: "Accept: */*"
local before, after, first, rooms
local sent = 0

function init(args)
  local left, right = args[1]:match("^(.*)%%d(.*)$")
  first, rooms = tonumber(args[2]), tonumber(args[3])
  local fields = "Host: bench\r\n"
  for n = 4, #args do fields = fields .. args[n] .. "\r\n" end
  before, after = "GET " .. left, right .. " HTTP/1.1\r\n" .. fields .. "\r\n"
end

-- Bare strings: wrk.format would cost the load's core a tenth of what it can send.
function request()
  local room = first + sent % rooms
  sent = sent + 1
  return before .. room .. after
end

function done(summary)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"done":%d,"failed":%d,"seconds":%f}\n', summary.requests, failed, summary.duration / 1e6))
end
