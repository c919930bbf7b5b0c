-- name: refresh
-- Brings the views up to date; false when another session is at it.
select memory.refresh_stats();

-- name: of_user
-- What is not counted by type: the version, and the relationships between memories that have not expired.
select (select version from memory.user_metadata where user_id = :user_id) as version,
       (select count(*) from memory.relationships
        where user_id = :user_id
          and not from_node_id = any (array(select node_id from memory.nodes
                                            where user_id = :user_id and expires_at <= :at))
          and not to_node_id = any (array(select node_id from memory.nodes
                                          where user_id = :user_id and expires_at <= :at))) as relationship_count;

-- name: views_age
-- How many seconds ago the views were refreshed; null when they never were.
select extract(epoch from clock_timestamp() - stats_refreshed_at)::double precision from memory.deployment;

-- name: by_type
-- A user's memories as they are now, by type: what the views show as of their last refresh.
select context_type, count(*) as node_count, sum(importance) as importance, sum(access_count)::bigint as accesses,
       min(created_at) as earliest, max(created_at) as latest
from memory.nodes
where user_id = :user_id and (expires_at is null or expires_at > :at)
  and not (context_type = 'domain_entity' and metadata @> '{"stub": true}')
group by context_type
order by context_type;

-- name: totals
-- Sums over all users, as of the last refresh.
select o_users as users, o_memories as memories, o_relationships as relationships, o_entities as entities
from memory.totals();
