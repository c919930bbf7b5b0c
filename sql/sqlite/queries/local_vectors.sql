-- name: put
-- A vector of a memory.
insert into local_vectors (user_id, node_id, field, model, vector, content_hash, version, checksum)
values (:user_id, :node_id, :field, :model, :vector, :content_hash, :version,
        row_checksum('local_vectors', :user_id, :node_id, :field, :model, :vector, :content_hash, :version))
on conflict (user_id, node_id, field, model) do update set
    vector = excluded.vector, content_hash = excluded.content_hash, version = excluded.version,
    checksum = excluded.checksum;

-- name: changed_since
-- What came or changed after a version, up to another one; from -1 on everything.
select node_id, field, model, vector, content_hash
from local_vectors
where user_id = :user_id and version > :version and version <= :up_to
  and row_is_intact(checksum, 'local_vectors', :user_id, node_id, field, model, vector, content_hash, version);

-- name: of_node
-- The vectors of a memory.
select node_id, field, model, vector, content_hash
from local_vectors
where user_id = :user_id and node_id = :node_id
  and row_is_intact(checksum, 'local_vectors', :user_id, :node_id, field, model, vector, content_hash, version);

-- name: forget_user
-- Let a user leave.
delete from local_vectors where user_id = :user_id;

-- name: delete
-- Remove the vectors of a memory.
delete from local_vectors where user_id = :user_id and node_id = :node_id;

-- name: delete_outdated
-- Remove the vectors of another content than the one a memory has now.
delete from local_vectors
where user_id = :user_id and node_id = :node_id and (:content_hash is null or content_hash is not :content_hash);

-- name: forget_orphans
-- Remove those whose memory was lost with a damaged file.
delete from local_vectors as v
where not exists (select 1 from local_nodes as n where n.user_id = v.user_id and n.node_id = v.node_id);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_vectors
where row_is_intact(checksum, 'local_vectors', user_id, node_id, field, model, vector, content_hash, version);
