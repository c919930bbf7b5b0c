-- For the administrator's hands.

-- After an UPDATE by hand: counts the user's rows anew and makes every process load the user afresh. Returns the new
-- version. Run as a superuser, or as the owner after `set memory.scope = 'all'`.
create function memory.touch_user(p_user text) returns bigint
language plpgsql volatile
as $$
declare
  v_incarnation uuid := gen_random_uuid();
  v_nodes bigint;
  v_entities bigint;
  v_relationships bigint;
  v_version bigint;
begin
  insert into memory.user_metadata (user_id, last_deletion)
    values (p_user, (select max(written_at) from memory.tombstones where user_id = p_user))
    on conflict (user_id) do nothing;
  perform 1 from memory.user_metadata where user_id = p_user for update;
  select count(*), count(*) filter (where context_type = 'domain_entity') into v_nodes, v_entities
    from memory.nodes where user_id = p_user;
  select count(*) into v_relationships from memory.relationships where user_id = p_user;
  update memory.user_metadata
    set incarnation = v_incarnation, version = version + 1, last_activity = now(), metadata = metadata - '{embedded, words}'::text[],
        node_count = v_nodes, entity_count = v_entities, relationship_count = v_relationships
    where user_id = p_user
    returning version into v_version;
  return v_version;
end
$$;
revoke all on function memory.touch_user(text) from public;

-- Gives a role what the library needs at run time and nothing more: no DDL, no statistics views, no other user's rows.
-- The role is remembered, so that later migrations grant what they add.
create function memory.grant_runtime(p_role text) returns void
language plpgsql volatile
as $$
declare
  v_schema text := (select relnamespace::regnamespace from pg_class where oid = (select tableoid from memory.deployment));
  v_table text;
  v_function regprocedure;
begin
  execute format('grant usage on schema %s to %I', v_schema, p_role);
  foreach v_table in array array['user_metadata', 'nodes', 'relationships', 'embeddings', 'postings', 'tombstones',
                                 'applied_watermarks', 'erasures'] loop
    execute format('grant select, insert, update, delete on %s.%I to %I', v_schema, v_table, p_role);
  end loop;
  foreach v_table in array array['deployment', 'schema_migrations', 'entities'] loop
    execute format('grant select on %s.%I to %I', v_schema, v_table, p_role);
  end loop;
  -- All functions but those for the owner's hands.
  for v_function in
    select p.oid from pg_proc p
    where p.pronamespace = v_schema::regnamespace and p.proname not in ('set_scope', 'grant_runtime')
  loop
    execute format('grant execute on function %s to %I', v_function, p_role);
  end loop;
  update memory.deployment
    set runtime_roles = array_append(array_remove(runtime_roles, p_role), p_role);
end
$$;
revoke all on function memory.grant_runtime(text) from public;
