-- Say that the gateway process A.node lives, for A.lease ms from now.
redis.call('SET', P .. A.node, '1', 'PX', A.lease)
return 1
