-- Say A.payload to the gateway process A.node. Answers 1, or 0 when there is no such process.
-- On a Cluster PUBLISH counts only who listens at this server, so that nobody is counted proves nothing; then
-- the lease tells. Of a process whose lease was lost with the server's memory the count may still tell.
local heard = redis.call('PUBLISH', P .. A.node, A.payload)
return (heard > 0 or redis.call('EXISTS', P .. A.node) == 1) and 1 or 0
