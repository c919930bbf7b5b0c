-- name: notify
-- Tells other processes what has changed, in a transaction of its own after the one that wrote.
select pg_notify(:channel, payload) from unnest(:payloads::text[]) as payload;

-- name: versions
-- Where the users stand whose memory a process holds.
select o_user_id as user_id, o_incarnation as incarnation, o_version as version from memory.versions_of(:users);
