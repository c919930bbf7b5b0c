-- Statistics for dashboards, refreshed together. They count what a user sees: no memory that has expired, and no stub,
-- which only holds the place of an entity. Row-level security does not reach into a materialised view, so no role but the
-- owner may read them.

create materialized view memory.user_stats as
with memories as (
  select user_id, context_type, importance, access_count, created_at
  from memory.nodes
  where (expires_at is null or expires_at > now())
    and not (context_type = 'domain_entity' and metadata @> '{"stub": true}')
), per_user_relationships as (
  select r.user_id, count(*) as relationship_count
  from memory.relationships r
  where not exists (select from memory.nodes e
                    where e.user_id = r.user_id and e.node_id = r.from_node_id and e.expires_at <= now())
    and not exists (select from memory.nodes e
                    where e.user_id = r.user_id and e.node_id = r.to_node_id and e.expires_at <= now())
  group by r.user_id
)
select n.user_id,
       count(*) as node_count,
       coalesce(max(r.relationship_count), 0) as relationship_count,
       count(*) filter (where n.context_type = 'domain_entity') as entity_count,
       array_agg(distinct n.context_type) as context_types,
       avg(n.importance) as average_importance,
       sum(n.access_count)::bigint as total_accesses,
       min(n.created_at) as earliest_node,
       max(n.created_at) as latest_node
from memories n
left join per_user_relationships r on r.user_id = n.user_id
group by n.user_id;

create materialized view memory.context_type_stats as
select user_id, context_type,
       count(*) as node_count,
       avg(importance) as average_importance,
       sum(access_count)::bigint as total_accesses,
       min(created_at) as earliest_node,
       max(created_at) as latest_node
from memory.nodes
where (expires_at is null or expires_at > now())
  and not (context_type = 'domain_entity' and metadata @> '{"stub": true}')
group by user_id, context_type;

create materialized view memory.entity_stats as
select user_id, entity_system, coalesce(entity_type, '') as entity_type,
       count(*) as entity_count,
       sum(access_count)::bigint as total_accesses,
       max(updated_at) as latest_update
from memory.nodes
where context_type = 'domain_entity' and (expires_at is null or expires_at > now())
  and not metadata @> '{"stub": true}'
group by user_id, entity_system, coalesce(entity_type, '');

-- REFRESH ... CONCURRENTLY needs them.
create unique index user_stats_key on memory.user_stats (user_id);
create unique index context_type_stats_key on memory.context_type_stats (user_id, context_type);
create unique index entity_stats_key on memory.entity_stats (user_id, entity_system, entity_type);

-- Refreshes all three without blocking their readers; false when another session is at it. Without the scope the
-- owner's own refresh would see no user and empty the views.
create function memory.refresh_stats() returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_table oid := (select tableoid from memory.deployment);
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  if not pg_try_advisory_xact_lock(hashtextextended('hybrid_memory.stats.' || v_table, 0)) then
    return false;
  end if;
  perform memory.set_scope('all');
  -- Views that a restored dump has left empty can only be filled at once.
  if (select bool_and(v.relispopulated) from pg_class v join pg_class t on t.relnamespace = v.relnamespace
      where t.oid = v_table and v.relkind = 'm') then
    refresh materialized view concurrently memory.user_stats;
    refresh materialized view concurrently memory.context_type_stats;
    refresh materialized view concurrently memory.entity_stats;
  else
    refresh materialized view memory.user_stats;
    refresh materialized view memory.context_type_stats;
    refresh materialized view memory.entity_stats;
  end if;
  perform memory.set_scope(v_scope);
  update memory.deployment set stats_refreshed_at = clock_timestamp();
  return true;
end
$$;
revoke all on function memory.refresh_stats() from public;
