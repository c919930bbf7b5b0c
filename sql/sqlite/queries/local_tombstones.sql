-- name: put
-- The latest deletion of a memory.
insert into local_tombstones (user_id, node_id, version, written_at, written_by, checksum)
values (:user_id, :node_id, :version, :written_at, :written_by,
        row_checksum('local_tombstones', :user_id, :node_id, :version, :written_at, :written_by))
on conflict (user_id, node_id) do update set
    version = excluded.version, written_at = excluded.written_at, written_by = excluded.written_by,
    checksum = excluded.checksum;

-- name: get
-- When and by whom a memory was deleted.
select written_at, written_by
from local_tombstones
where user_id = :user_id and node_id = :node_id
  and row_is_intact(checksum, 'local_tombstones', :user_id, :node_id, version, written_at, written_by);

-- name: since
-- The deletions after a version, up to another one; from -1 on all.
select node_id, written_at, written_by
from local_tombstones
where user_id = :user_id and version > :version and version <= :up_to
  and row_is_intact(checksum, 'local_tombstones', :user_id, node_id, version, written_at, written_by);

-- name: forget_user
-- Let a user leave.
delete from local_tombstones where user_id = :user_id;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_tombstones
where row_is_intact(checksum, 'local_tombstones', user_id, node_id, version, written_at, written_by);
