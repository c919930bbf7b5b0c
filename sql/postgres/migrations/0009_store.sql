-- Items of a store: nodes with a namespace and a key.

create index nodes_namespace on memory.nodes (user_id, namespace) where namespace is not null;

-- Owners after `p_after` who have items; only their names.
create function memory.store_owners(p_after text, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select distinct user_id from memory.nodes
               where user_id > p_after and namespace is not null order by user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

-- Puts off the expiry of a user's items by the time each of them was stored for, unless that was done a moment ago:
-- within a tenth of that time. What has expired stays so. The user's version afterwards.
create function memory.refresh_items(p_user text, p_nodes uuid[]) returns bigint
language plpgsql volatile
as $$
declare
  v_now timestamptz := clock_timestamp();
  v_version bigint;
begin
  perform memory.bind_users(array[p_user]);
  select version into v_version from memory.user_metadata where user_id = p_user for update;
  update memory.nodes as n
    set expires_at = v_now + (n.metadata #>> '{store,ttl}')::double precision * interval '1 minute',
        metadata = jsonb_set(
          n.metadata, '{store,version}', to_jsonb(memory.item_version(n.key, n.metadata, n.version))),
        version = v_version + 1
    where n.user_id = p_user and n.node_id = any (p_nodes) and n.expires_at > v_now
      and n.expires_at < v_now + (n.metadata #>> '{store,ttl}')::double precision * interval '0.9 minute';
  if not found then
    return v_version;
  end if;
  update memory.user_metadata set version = version + 1 where user_id = p_user;
  return v_version + 1;
end
$$;

revoke all on function memory.store_owners(text, integer) from public;
revoke all on function memory.refresh_items(text, uuid[]) from public;
