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

revoke all on function memory.standing() from public;
revoke all on function memory.renew_epoch(uuid) from public;
revoke all on function memory.versions_of(text[]) from public;
