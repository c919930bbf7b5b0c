-- name: put
-- Where a user's memory stands now.
insert into local_users (user_id, incarnation, version, node_count, relationship_count, entity_count, last_activity,
                         checksum)
values (:user_id, :incarnation, :version, :node_count, :relationship_count, :entity_count, :last_activity,
        row_checksum('local_users', :user_id, :incarnation, :version, :node_count, :relationship_count, :entity_count,
                     :last_activity))
on conflict (user_id) do update set
    incarnation = excluded.incarnation, version = excluded.version, node_count = excluded.node_count,
    relationship_count = excluded.relationship_count, entity_count = excluded.entity_count,
    last_activity = excluded.last_activity, checksum = excluded.checksum;

-- name: get
-- Where a user's memory stands.
select incarnation, version, node_count, relationship_count, entity_count, last_activity
from local_users
where user_id = :user_id
  and row_is_intact(checksum, 'local_users', :user_id, incarnation, version, node_count, relationship_count,
                    entity_count, last_activity);

-- name: recount
-- Make every state fit the rows that were saved from a damaged file; a lost one begins anew, behind all versions.
insert into local_users (user_id, incarnation, version, node_count, relationship_count, entity_count, last_activity,
                         checksum)
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
               relationships, entities, counted.last_activity
        from counted left join local_users as u on u.user_id = counted.user_id)
select user_id, incarnation, version, nodes, relationships, entities, last_activity,
       row_checksum('local_users', user_id, incarnation, version, nodes, relationships, entities, last_activity)
from known
where true
on conflict (user_id) do update set
    incarnation = excluded.incarnation, version = excluded.version, node_count = excluded.node_count,
    relationship_count = excluded.relationship_count, entity_count = excluded.entity_count,
    last_activity = excluded.last_activity, checksum = excluded.checksum;

-- name: verify
-- Read every row, so that a damaged one shows.
select count(*) from local_users
where row_is_intact(checksum, 'local_users', user_id, incarnation, version, node_count, relationship_count,
                    entity_count, last_activity);
