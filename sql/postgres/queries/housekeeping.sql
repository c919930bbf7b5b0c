-- name: allow_long_statements
-- Looking at all users takes longer than a call may; the caller has a deadline of its own.
set local statement_timeout = '2min';

-- name: claim
-- Whether this process is to do a chore of the whole database now.
select memory.claim(:chore, :seconds);

-- name: users_to_sweep
-- Users who may have something to remove, in pages.
select * from memory.users_to_sweep(:after, :before, :most) as named (user_id);

-- name: users_to_trim
-- Users of whom old tombstones or watermarks are kept, in pages.
select * from memory.users_to_trim(:after, :before, :most) as named (user_id);

-- name: sweep_user
-- Removes what has expired and, given a moment, what was not changed since.
select o_version as version, o_removed as removed, o_expired as expired, o_old as old,
       o_relationships as relationships
from memory.sweep_user(:owner, :before, :keep_tags, :most);

-- name: trim_user
-- Forgets old tombstones and watermarks.
select o_tombstones as tombstones, o_watermarks as watermarks from memory.trim_user(:owner, :before, :most);

-- name: forget_watermarks
-- A process that closes will write no more for these users.
select memory.forget_watermark(sorted.user_id, :instance)
from (select users.user_id from unnest(:users::text[]) as users (user_id) order by users.user_id collate "C") as sorted;

-- name: count_accesses
-- Adds what was read of one user's memories.
select memory.count_accesses(:owner, :nodes, :reads, :last);
