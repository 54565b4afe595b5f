-- Takes a place from every limit, or from none. Each is GCRA as in rate/gcra.rs: what is kept is one instant.
-- KEYS: the limits. ARGV: the time (seconds, nanoseconds; empty: this server's), then for each limit the time between two
-- requests and the time that an empty burst takes to fill (seconds, nanoseconds each), and the slack (seconds).
-- Answers 1 or 0, whether places were taken; then how far each instant lay ahead before that (seconds, nanoseconds).
-- A number here holds 53 bits, so times are pairs.
local SECOND = 1000000000
local now_s, now_ns
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now_s, now_ns = tonumber(time[1]), tonumber(time[2]) * 1000
else
  now_s, now_ns = tonumber(ARGV[1]), tonumber(ARGV[2])
end
local slack_s = tonumber(ARGV[3])

local function sum(a_s, a_ns, b_s, b_ns)
  local s, ns = a_s + b_s, a_ns + b_ns
  if ns >= SECOND then s, ns = s + 1, ns - SECOND end
  return s, ns
end
local function is_more(a_s, a_ns, b_s, b_ns) return a_s > b_s or (a_s == b_s and a_ns > b_ns) end
local function keep(key, lead_s, lead_ns)
  local s, ns = sum(now_s, now_ns, lead_s, lead_ns)
  -- Kept for a second longer than it says anything.
  local ms = lead_s * 1000 + math.ceil(lead_ns / 1000000) + 1000
  redis.call('SET', key, string.format('%.0f %.0f', s, ns), 'PX', string.format('%.0f', ms))
end

local held = redis.call('MGET', unpack(KEYS))
local answer, after, pass = {1}, {}, true
for i, key in ipairs(KEYS) do
  local at = i * 4
  local every_s, every_ns = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local most_s, most_ns = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local s, ns = string.match(held[i] or '', '^(%d+) (%d+)$')
  local lead_s, lead_ns = 0, 0
  if s then
    lead_s, lead_ns = s - now_s, ns - now_ns
    if lead_ns < 0 then lead_s, lead_ns = lead_s - 1, lead_ns + SECOND end
    if lead_s < 0 then lead_s, lead_ns = 0, 0 end
  end
  -- Left by a wider limit of the same name, or by a clock that was put back since.
  if is_more(lead_s, lead_ns, most_s + slack_s, most_ns) then
    lead_s, lead_ns = most_s, most_ns
    keep(key, lead_s, lead_ns)
  end
  local then_s, then_ns = sum(lead_s, lead_ns, every_s, every_ns)
  if is_more(then_s, then_ns, most_s, most_ns) then pass = false end
  after[i] = {then_s, then_ns}
  answer[2 * i], answer[2 * i + 1] = lead_s, lead_ns
end
if pass then
  for i, key in ipairs(KEYS) do keep(key, after[i][1], after[i][2]) end
else
  answer[1] = 0
end
return answer
