-- The groups of an owner's dead letters, the one that grew last first. A: owner, limit, before_ms and before (a group).
-- Answers {group, last seen ms} to go on after ('' at the end), how many groups there are, then for each its JSON,
-- count, first and last seen (ms), a sample's id.
local key = P .. 'deadg:' .. A.owner
local from = A.before_ms and dead_rank(key, A.before_ms, A.before) or 0
local found = redis.call('ZREVRANGE', key, from, from + A.limit, 'WITHSCORES')
local more = #found > 2 * A.limit
local last = more and 2 * A.limit or #found
local answer = {more and {found[last - 1], tonumber(found[last])} or {'', 0}, redis.call('ZCARD', key)}
for i = 1, last, 2 do
  local group = found[i]
  local ids = dead_group_key(A.owner, group)
  local first = redis.call('ZRANGE', ids, 0, 0, 'WITHSCORES')
  local newest = redis.call('ZREVRANGE', ids, 0, 0, 'WITHSCORES')
  local name = redis.call('HGET', P .. 'deadt:' .. A.owner, group)
  answer[#answer + 1] = {
    string.match(name, '\n(.*)$'), redis.call('ZCARD', ids), tonumber(first[2]), tonumber(newest[2]), newest[1],
  }
end
return answer
