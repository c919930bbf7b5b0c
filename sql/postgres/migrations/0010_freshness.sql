-- What processes compare, so that all of them are fresh: which database this is, and where users stand.

-- Which database this is. Another epoch or server means that it does not go on where it was: a backup was restored, or a
-- standby took over. A position behind one already seen means the same. What a server does not tell stays out.
create function memory.standing(out o_epoch uuid, out o_server text, out o_position bigint)
language plpgsql volatile
as $$
declare
  v_schema oid;
  v_system text;
  v_timeline text;
begin
  select d.epoch, c.relnamespace into o_epoch, v_schema
    from memory.deployment d join pg_catalog.pg_class c on c.oid = d.tableoid;
  begin
    select system_identifier::text into v_system from pg_catalog.pg_control_system();
    if not pg_catalog.pg_is_in_recovery() then
      o_position := pg_catalog.pg_current_wal_flush_lsn() - '0/0'::pg_catalog.pg_lsn;
      v_timeline := pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), 8);
    end if;
  exception when insufficient_privilege or undefined_function or feature_not_supported then
    null;
  end;
  select pg_catalog.concat_ws('-', v_system, v_timeline, d.oid, c.relfilenode) into o_server
    from pg_catalog.pg_database d, pg_catalog.pg_class c
    where d.datname = pg_catalog.current_database() and c.relnamespace = v_schema and c.relname = 'user_metadata';
end
$$;

-- Says that the database does not go on where it was, unless somebody has said so since `p_seen`; the epoch from now on.
create function memory.renew_epoch(p_seen uuid) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_epoch uuid := gen_random_uuid();
begin
  update memory.deployment set epoch = v_epoch where epoch = p_seen;
  select epoch into v_epoch from memory.deployment;
  return v_epoch;
end
$$;

-- Where each of these users stands; nothing for one who never wrote.
create function memory.versions_of(p_users text[])
returns table (o_user_id text, o_incarnation uuid, o_version bigint)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select m.user_id, m.incarnation, m.version from memory.user_metadata m where m.user_id = any (p_users);
  perform memory.set_scope(v_scope);
end
$$;

-- Where a user stands, and what came, changed or went after a version, seen by one statement: nothing of half a batch.
-- No changes when there are too many for one answer. In their order and with a limit, so that they are looked up by
-- version also by a plan for any version, which is kept.
create function memory.news_of(p_user text, p_since bigint)
returns table (
  o_incarnation uuid, o_version bigint, o_node_count bigint, o_relationship_count bigint, o_entity_count bigint,
  o_tombstone_floor bigint, o_last_deletion timestamptz, o_changes json
)
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
begin
  perform memory.bind_users(array[p_user]);
  return query
    select m.incarnation, m.version, m.node_count, m.relationship_count, m.entity_count, m.tombstone_floor, gone.latest,
           case when greatest(changed.many, joined.many, gone.many) <= 200 then
             json_build_object('nodes', changed.list, 'edges', joined.list, 'deleted', gone.list) end
    from memory.user_metadata m
    cross join lateral (
      select count(*) as many, coalesce(json_agg(one), '[]') as list
      from (
        select n.node_id, n.context_type, n.content, n.content_kind, n.summary, n.tags, n.metadata, n.importance,
               n.confidence, n.external_id, n.thread_id, n.seq, n.namespace, n.key, n.version, n.written_at,
               n.written_by, n.created_at, n.updated_at, n.last_accessed_at, n.access_count, n.expires_at
        from memory.nodes n where n.user_id = p_user and n.version > p_since order by n.version limit 201
      ) as one
    ) as changed
    cross join lateral (
      select count(*) as many, coalesce(json_agg(one), '[]') as list
      from (
        select r.from_node_id, r.to_node_id, r.relationship_type, r.strength, r.metadata, r.version, r.created_at,
               r.updated_at
        from memory.relationships r where r.user_id = p_user and r.version > p_since order by r.version limit 201
      ) as one
    ) as joined
    cross join lateral (
      select count(*) as many, coalesce(json_agg(one.node_id), '[]') as list, max(one.written_at) as latest
      from (
        select d.node_id, d.written_at
        from memory.tombstones d where d.user_id = p_user and d.version > p_since order by d.version limit 201
      ) as one
    ) as gone
    where m.user_id = p_user;
end
$$;

revoke all on function memory.standing() from public;
revoke all on function memory.renew_epoch(uuid) from public;
revoke all on function memory.versions_of(text[]) from public;
revoke all on function memory.news_of(text, bigint) from public;
