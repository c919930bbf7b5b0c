-- name: put
-- Where a user's memory stands now.
insert into local_users (user_id, incarnation, version, node_count, relationship_count, entity_count, last_activity,
                         delivered, is_copy, checksum)
values (:user_id, :incarnation, :version, :node_count, :relationship_count, :entity_count, :last_activity, :delivered,
        :is_copy,
        row_checksum('local_users', :user_id, :incarnation, :version, :node_count, :relationship_count, :entity_count,
                     :last_activity, :delivered, :is_copy))
on conflict (user_id) do update set
    incarnation = excluded.incarnation, version = excluded.version, node_count = excluded.node_count,
    relationship_count = excluded.relationship_count, entity_count = excluded.entity_count,
    last_activity = excluded.last_activity, delivered = excluded.delivered,
    is_copy = excluded.is_copy, checksum = excluded.checksum;

-- name: get
-- Where a user's memory stands.
select incarnation, version, node_count, relationship_count, entity_count, last_activity, delivered, is_copy
from local_users
where user_id = :user_id
  and row_is_intact(checksum, 'local_users', :user_id, incarnation, version, node_count, relationship_count,
                    entity_count, last_activity, delivered, is_copy);

-- name: everybody
-- All users who have rows here, and whether those are a mere copy.
select user_id, is_copy
from local_users
where row_is_intact(checksum, 'local_users', user_id, incarnation, version, node_count, relationship_count,
                    entity_count, last_activity, delivered, is_copy);

-- name: place_of_portion
-- The version at which so many rows after another version end, told by the indexes alone.
select max(version)
from (
    select version from local_tombstones where user_id = :user_id and version > :version
    union all
    select version from local_nodes where user_id = :user_id and version > :version
    union all
    select version from local_vectors where user_id = :user_id and version > :version
    union all
    select version from local_relationships where user_id = :user_id and version > :version
    order by version
    limit :most
);

-- name: forget
-- Let a user leave.
delete from local_users where user_id = :user_id;

-- name: recount
-- Make every state fit the rows that were saved from a damaged file; a lost one begins anew, behind all versions.
insert into local_users (user_id, incarnation, version, node_count, relationship_count, entity_count, last_activity,
                         delivered, is_copy, checksum)
with
    saved (user_id, version, written_at, nodes, relationships, entities) as (
        select user_id, version, updated_at, 1, 0, context_type = 'domain_entity' from local_nodes
        union all
        select user_id, version, updated_at, 0, 1, 0 from local_relationships
        union all
        select user_id, version, written_at, 0, 0, 0 from local_tombstones
        union all
        select user_id, version, 0, 0, 0, 0 from local_vectors
        union all
        select user_id, version, last_activity, 0, 0, 0 from local_users),
    counted as materialized (
        select user_id, lower(hex(randomblob(16))) as incarnation, max(version) as version, sum(nodes) as nodes,
               sum(relationships) as relationships, sum(entities) as entities, max(written_at) as last_activity
        from saved
        group by user_id),
    known as materialized (
        select counted.user_id, coalesce(u.incarnation, counted.incarnation) as incarnation, counted.version, nodes,
               relationships, entities, counted.last_activity,
               coalesce(u.delivered, 0) as delivered, coalesce(u.is_copy, 0) as is_copy
        from counted left join local_users as u on u.user_id = counted.user_id)
select user_id, incarnation, version, nodes, relationships, entities, last_activity, delivered, is_copy,
       row_checksum('local_users', user_id, incarnation, version, nodes, relationships, entities, last_activity,
                    delivered, is_copy)
from known
where true
on conflict (user_id) do update set
    incarnation = excluded.incarnation, version = excluded.version, node_count = excluded.node_count,
    relationship_count = excluded.relationship_count, entity_count = excluded.entity_count,
    last_activity = excluded.last_activity, delivered = excluded.delivered,
    is_copy = excluded.is_copy, checksum = excluded.checksum;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_users
where row_is_intact(checksum, 'local_users', user_id, incarnation, version, node_count, relationship_count,
                    entity_count, last_activity, delivered, is_copy);
