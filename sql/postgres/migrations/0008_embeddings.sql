-- Vectors that the library makes of memories, in the background. `user_metadata.metadata` says under `embedded`, per
-- model, up to which version of the user every memory has one.

-- Keeps the vectors of texts, each read at some version of its memory; where the memory has changed since, its text may
-- be another, and nothing is kept. `p_nodes`, `p_fields`, `p_versions` and the vectors go together; of `p_vectors` and
-- `p_halves` one is empty. When nothing was left to do for the user at version `p_done`, that is noted under `p_mark`.
create function memory.keep_vectors(
  p_user text, p_model text, p_dimensions integer, p_nodes uuid[], p_fields text[], p_versions bigint[],
  p_vectors public.vector[], p_halves public.halfvec[], p_mark text, p_done bigint,
  out o_incarnation uuid, out o_before bigint, out o_version bigint, out o_kept uuid[]
)
language plpgsql volatile
as $$
declare
  v_ann boolean;
begin
  perform memory.bind_users(array[p_user]);
  select incarnation, version, coalesce(metadata -> 'ann' ? p_mark, false) into o_incarnation, o_before, v_ann
    from memory.user_metadata where user_id = p_user for update;
  if not found then
    return;
  end if;
  o_version := o_before;
  with kept as (
    insert into memory.embeddings as t (
      user_id, node_id, field, model, dimensions, embedding, embedding_half, content_hash, ann, version)
    select p_user, s.node_id, s.field, p_model, p_dimensions, s.whole, s.half, n.content_hash, v_ann, o_before + 1
    from unnest(p_nodes, p_fields, p_versions, p_vectors, p_halves) as s (node_id, field, version, whole, half)
    join memory.nodes n on n.user_id = p_user and n.node_id = s.node_id and n.node_id = any (p_nodes)
      and n.version = s.version
    on conflict (user_id, node_id, field, model) do update set
      dimensions = excluded.dimensions, embedding = excluded.embedding, embedding_half = excluded.embedding_half,
      content_hash = excluded.content_hash, ann = excluded.ann, version = excluded.version
    returning t.node_id
  )
  select array_agg(distinct node_id) into o_kept from kept;
  if o_kept is null then
    o_kept := '{}';
    return;
  end if;
  -- Caches learn of vectors as they learn of everything.
  o_version := o_before + 1;
  update memory.user_metadata
    set version = o_version,
        metadata = case when p_done is null then metadata
          else memory.marked(metadata, p_mark, case when p_done = o_before then o_version else p_done end) end
    where user_id = p_user;
end
$$;

-- The metadata of a user with a note that up to a version every memory has a vector.
create function memory.marked(p_metadata jsonb, p_mark text, p_version bigint) returns jsonb
language sql immutable parallel safe
as $$
  select p_metadata || jsonb_build_object(
    'embedded', coalesce(p_metadata -> 'embedded', '{}') || jsonb_build_object(p_mark, p_version))
$$;

-- Notes that there is nothing left to do for a user at a version.
create function memory.mark_embedded(p_user text, p_mark text, p_incarnation uuid, p_version bigint) returns void
language plpgsql volatile
as $$
begin
  perform memory.bind_users(array[p_user]);
  update memory.user_metadata set metadata = memory.marked(metadata, p_mark, p_version)
    where user_id = p_user and incarnation = p_incarnation and version >= p_version;
end
$$;

-- Users after `p_after` who have changed since all their memories had vectors, or never had any.
create function memory.users_to_embed(p_after text, p_mark text, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select user_id from memory.user_metadata
               where user_id > p_after and version > coalesce((metadata -> 'embedded' ->> p_mark)::bigint, 0)
               order by user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

revoke all on function memory.keep_vectors(
  text, text, integer, uuid[], text[], bigint[], public.vector[], public.halfvec[], text, bigint) from public;
revoke all on function memory.marked(jsonb, text, bigint) from public;
revoke all on function memory.mark_embedded(text, text, uuid, bigint) from public;
revoke all on function memory.users_to_embed(text, text, integer) from public;
