-- name: bind
-- The users the running transaction may see and write.
select memory.bind_users(:users);
