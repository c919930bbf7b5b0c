-- What keeps statistics fresh and tables small. What looks at all users only names them; what removes rows is bound to
-- one user and works under that user's lock, like any other write.

-- When each chore of the whole database was begun last, in seconds: of many processes one does it.
alter table memory.deployment add column chores jsonb not null default '{}';

-- Whether the caller is to do a chore now: nobody has begun it for so many seconds.
create function memory.claim(p_chore text, p_seconds double precision) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_now double precision := extract(epoch from clock_timestamp());
begin
  update memory.deployment set chores = chores || jsonb_build_object(p_chore, v_now)
    where coalesce((chores ->> p_chore)::double precision, 0) <= v_now - p_seconds;
  return found;
end
$$;

-- Sums over all users as of the last refresh, which name nobody.
create function memory.totals()
returns table (o_users bigint, o_memories bigint, o_relationships bigint, o_entities bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
  return query select count(*), coalesce(sum(node_count), 0)::bigint, coalesce(sum(relationship_count), 0)::bigint,
                      coalesce(sum(entity_count), 0)::bigint
               from memory.user_stats;
end
$$;

-- Users after `p_after` who have memories that have expired or, given a moment, were not changed since.
create function memory.users_to_sweep(p_after text, p_before timestamptz, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  -- Two statements: one for both could not use the index of what expires.
  if p_before is null then
    return query select distinct user_id from memory.nodes
                 where user_id > p_after and expires_at <= v_now order by user_id limit p_most;
  else
    return query select distinct user_id from memory.nodes
                 where user_id > p_after and (updated_at < p_before or expires_at <= v_now)
                 order by user_id limit p_most;
  end if;
  perform memory.set_scope(v_scope);
end
$$;

-- Users after `p_after` of whom tombstones or watermarks are older than `p_before`.
create function memory.users_to_trim(p_after text, p_before timestamptz, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select old.user_id
               from (select user_id from memory.tombstones where user_id > p_after and deleted_at < p_before
                     union
                     select user_id from memory.applied_watermarks where user_id > p_after and updated_at < p_before
                    ) as old
               order by old.user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

-- Removes a user's memories that have expired and, given a moment, those not changed since that carry none of the tags
-- (lower case) to keep; items of a store have no age, only an expiry, and a stub stays while anything is related to it.
-- At most so many: call again until fewer are removed. Stubs count among those only, for they are no memories.
-- The tombstone carries the stamp of what it removed, not of the removal: a change that another process made later and
-- that arrives later still counts, as it would have if it had come first.
create function memory.sweep_user(p_user text, p_before timestamptz, p_keep_tags text[], p_most integer)
returns table (o_version bigint, o_removed bigint, o_expired bigint, o_old bigint, o_relationships bigint)
language plpgsql volatile
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_version bigint;
  v_gone uuid[];
  v_latest timestamptz;
  v_expired bigint;
  v_stubs bigint;
  v_entities bigint;
  v_edges bigint;
begin
  perform memory.bind_users(array[p_user]);
  select version into v_version from memory.user_metadata where user_id = p_user for update;
  if not found then
    if not exists (select from memory.nodes where user_id = p_user) then
      return query select 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint;
      return;
    end if;
    v_version := memory.touch_user(p_user);
  end if;
  -- In a statement after the lock: whatever was changed while it was waited for is judged as it is now.
  select array_agg(node_id), max(written_at), count(*) filter (where has_expired), count(*) filter (where is_entity),
         count(*) filter (where is_stub and not has_expired)
    into v_gone, v_latest, v_expired, v_entities, v_stubs
    from (
      select n.node_id, n.written_at, coalesce(n.expires_at <= v_now, false) as has_expired,
             n.context_type = 'domain_entity' as is_entity,
             n.context_type = 'domain_entity' and memory.is_stub(n.metadata) as is_stub
      from memory.nodes n
      where n.user_id = p_user
        and (n.expires_at <= v_now
             or (n.updated_at < p_before and n.namespace is null
                 and not exists (select from unnest(n.tags) as tag
                                 where tag = any (p_keep_tags) or lower(tag) = any (p_keep_tags))
                 and not (n.context_type = 'domain_entity' and memory.is_stub(n.metadata)
                          and exists (select from memory.relationships r
                                      where r.user_id = p_user
                                        and (r.from_node_id = n.node_id or r.to_node_id = n.node_id)))))
      limit p_most
    ) as going;
  if v_gone is null then
    return query select v_version, 0::bigint, 0::bigint, 0::bigint, 0::bigint;
    return;
  end if;
  v_version := v_version + 1;
  insert into memory.tombstones as t (user_id, node_id, version, written_at, written_by, deleted_at)
    select n.user_id, n.node_id, v_version, n.written_at, n.written_by, v_now
    from memory.nodes n where n.user_id = p_user and n.node_id = any (v_gone)
    on conflict (user_id, node_id) do update set
      version = excluded.version, written_at = excluded.written_at, written_by = excluded.written_by,
      deleted_at = excluded.deleted_at;
  delete from memory.relationships
    where user_id = p_user and (from_node_id = any (v_gone) or to_node_id = any (v_gone));
  get diagnostics v_edges = row_count;
  delete from memory.nodes where user_id = p_user and node_id = any (v_gone);
  update memory.user_metadata
    set version = v_version, last_deletion = greatest(last_deletion, v_latest),
        node_count = node_count - cardinality(v_gone), entity_count = entity_count - v_entities,
        relationship_count = relationship_count - v_edges
    where user_id = p_user;
  return query select v_version, cardinality(v_gone)::bigint, v_expired,
                      cardinality(v_gone) - v_expired - v_stubs, v_edges;
end
$$;

-- Forgets a user's oldest tombstones, at most so many, and raises the floor below which a cache cannot be brought up to
-- date; and the watermarks of processes that have not written for as long. How many there were.
create function memory.trim_user(p_user text, p_before timestamptz, p_most integer)
returns table (o_tombstones bigint, o_watermarks bigint)
language plpgsql volatile
as $$
declare
  v_gone uuid[];
  v_floor bigint;
  v_marks bigint;
begin
  perform memory.bind_users(array[p_user]);
  perform 1 from memory.user_metadata where user_id = p_user for update;
  select array_agg(node_id), max(version) into v_gone, v_floor
    from (
      select t.node_id, t.version from memory.tombstones t
      -- Naming the version lets its index be used, which has no others.
      where t.user_id = p_user and t.version >= 0 and t.deleted_at < p_before order by t.version limit p_most
    ) as oldest;
  if v_gone is not null then
    delete from memory.tombstones where user_id = p_user and node_id = any (v_gone);
    update memory.user_metadata set tombstone_floor = greatest(tombstone_floor, v_floor) where user_id = p_user;
  end if;
  delete from memory.applied_watermarks where user_id = p_user and updated_at < p_before;
  get diagnostics v_marks = row_count;
  return query select coalesce(cardinality(v_gone), 0)::bigint, v_marks;
end
$$;

-- Removes the watermark of a process that will write no more for this user.
create function memory.forget_watermark(p_user text, p_instance uuid) returns void
language plpgsql volatile
as $$
begin
  perform memory.bind_users(array[p_user]);
  delete from memory.applied_watermarks where user_id = p_user and instance_id = p_instance;
end
$$;

-- Adds how often memories were read, and when last. No version: nobody has to reload a memory because it was read.
-- Under the user's lock, or it could meet a batch that touches the same rows in another order.
create function memory.count_accesses(p_user text, p_nodes uuid[], p_reads bigint[], p_last timestamptz[])
returns bigint
language plpgsql volatile
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_count bigint;
begin
  perform memory.bind_users(array[p_user]);
  perform 1 from memory.user_metadata where user_id = p_user for update;
  update memory.nodes as n
    set access_count = n.access_count + r.reads,
        last_accessed_at = greatest(n.last_accessed_at, least(r.last, v_now))
    from unnest(p_nodes, p_reads, p_last) as r (node_id, reads, last)
    where n.user_id = p_user and n.node_id = r.node_id and n.node_id = any (p_nodes);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

revoke all on function memory.claim(text, double precision) from public;
revoke all on function memory.totals() from public;
revoke all on function memory.users_to_sweep(text, timestamptz, integer) from public;
revoke all on function memory.users_to_trim(text, timestamptz, integer) from public;
revoke all on function memory.sweep_user(text, timestamptz, text[], integer) from public;
revoke all on function memory.trim_user(text, timestamptz, integer) from public;
revoke all on function memory.forget_watermark(text, uuid) from public;
revoke all on function memory.count_accesses(text, uuid[], bigint[], timestamptz[]) from public;
