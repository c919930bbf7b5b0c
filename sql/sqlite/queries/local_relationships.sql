-- name: put
-- A relationship as it is now.
insert into local_relationships (user_id, from_node_id, to_node_id, relationship_type, strength, metadata, version,
                                 written_at, written_by, created_at, updated_at, checksum)
values (:user_id, :from_node_id, :to_node_id, :relationship_type, :strength, :metadata, :version, :written_at,
        :written_by, :created_at, :updated_at,
        row_checksum('local_relationships', :user_id, :from_node_id, :to_node_id, :relationship_type, :strength,
                     :metadata, :version, :written_at, :written_by, :created_at, :updated_at))
on conflict (user_id, from_node_id, to_node_id, relationship_type) do update set
    strength = excluded.strength, metadata = excluded.metadata, version = excluded.version,
    written_at = excluded.written_at, written_by = excluded.written_by, created_at = excluded.created_at,
    updated_at = excluded.updated_at, checksum = excluded.checksum;

-- name: get
-- One relationship.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, written_at, written_by, created_at,
       updated_at
from local_relationships
where user_id = :user_id and from_node_id = :from_node_id and to_node_id = :to_node_id
  and relationship_type = :relationship_type
  and row_is_intact(checksum, 'local_relationships', :user_id, from_node_id, to_node_id, relationship_type, strength,
                    metadata, version, written_at, written_by, created_at, updated_at);

-- name: leaving
-- Those that leave a memory.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, written_at, written_by, created_at,
       updated_at
from local_relationships
where user_id = :user_id and from_node_id = :node_id
  and row_is_intact(checksum, 'local_relationships', :user_id, from_node_id, to_node_id, relationship_type, strength,
                    metadata, version, written_at, written_by, created_at, updated_at);

-- name: reaching
-- Those that reach a memory.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, written_at, written_by, created_at,
       updated_at
from local_relationships
where user_id = :user_id and to_node_id = :node_id
  and row_is_intact(checksum, 'local_relationships', :user_id, from_node_id, to_node_id, relationship_type, strength,
                    metadata, version, written_at, written_by, created_at, updated_at);

-- name: changed_since
-- What came or changed after a version, up to another one; from -1 on everything.
select from_node_id, to_node_id, relationship_type, strength, metadata, version, written_at, written_by, created_at,
       updated_at
from local_relationships
where user_id = :user_id and version > :version and version <= :up_to
  and row_is_intact(checksum, 'local_relationships', :user_id, from_node_id, to_node_id, relationship_type, strength,
                    metadata, version, written_at, written_by, created_at, updated_at);

-- name: count
-- How many relationships there are between memories that have not expired.
select count(*)
from local_relationships as r
where r.user_id = :user_id
  and not exists (select 1 from local_nodes as n
                  where n.user_id = r.user_id and n.node_id in (r.from_node_id, r.to_node_id) and n.expires_at <= :now)
  and row_is_intact(r.checksum, 'local_relationships', r.user_id, r.from_node_id, r.to_node_id, r.relationship_type,
                    r.strength, r.metadata, r.version, r.written_at, r.written_by, r.created_at, r.updated_at);

-- name: forget_user
-- Let a user leave.
delete from local_relationships where user_id = :user_id;

-- name: delete
-- Remove a relationship.
delete from local_relationships
where user_id = :user_id and from_node_id = :from_node_id and to_node_id = :to_node_id
  and relationship_type = :relationship_type;

-- name: forget_orphans
-- Remove those of which an end was lost with a damaged file.
delete from local_relationships as r
where not exists (select 1 from local_nodes as n where n.user_id = r.user_id and n.node_id = r.from_node_id)
   or not exists (select 1 from local_nodes as n where n.user_id = r.user_id and n.node_id = r.to_node_id);

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_relationships
where row_is_intact(checksum, 'local_relationships', user_id, from_node_id, to_node_id, relationship_type, strength,
                    metadata, version, written_at, written_by, created_at, updated_at);
