-- Vectors that the library makes of memories, in the background. `user_metadata.metadata` says under `embedded`, per
-- model, up to which version of the user every memory has one.

-- Keeps the vectors of texts, each read at some version of its memory; where the memory has changed since, its text may
-- be another, and nothing is kept. `p_nodes`, `p_fields`, `p_versions` and the vectors go together; of `p_vectors` and
-- `p_halves` one is empty. With them, no memory that changed after version `p_since`, up to `p_done`, lacks a vector that
-- can be made; where nothing is missing before that either, it is noted under `p_mark`. In another incarnation of the
-- user nothing happens, and `o_incarnation` is null.
create function memory.keep_vectors(
  p_user text, p_incarnation uuid, p_since bigint, p_done bigint, p_model text, p_dimensions integer, p_nodes uuid[],
  p_fields text[], p_versions bigint[], p_vectors public.vector[], p_halves public.halfvec[], p_mark text,
  out o_user_id text, out o_incarnation uuid, out o_before bigint, out o_version bigint, out o_kept uuid[]
)
language plpgsql volatile
as $$
declare
  v_ann boolean;
  v_done bigint;
begin
  perform memory.bind_users(array[p_user]);
  o_user_id := p_user;
  select incarnation, version, coalesce(metadata -> 'ann' ? p_mark, false),
         coalesce((metadata -> 'embedded' ->> p_mark)::bigint, 0)
    into o_incarnation, o_before, v_ann, v_done
    from memory.user_metadata where user_id = p_user and incarnation = p_incarnation for update;
  if not found then
    return;
  end if;
  with kept as (
    insert into memory.embeddings as t (
      user_id, node_id, field, model, dimensions, embedding, embedding_half, content_hash, ann, version)
    select p_user, s.node_id, s.field, p_model, p_dimensions, s.whole, s.half, n.content_hash, v_ann, o_before + 1
    from unnest(p_nodes, p_fields, p_versions, p_vectors, p_halves) as s (node_id, field, version, whole, half)
    -- Not `=`, or the index of versions would be used, where all that came together is side by side.
    join memory.nodes n on n.user_id = p_user and n.node_id = s.node_id and n.node_id = any (p_nodes)
      and n.version is not distinct from s.version
    on conflict (user_id, node_id, field, model) do update set
      dimensions = excluded.dimensions, embedding = excluded.embedding, embedding_half = excluded.embedding_half,
      content_hash = excluded.content_hash, ann = excluded.ann, version = excluded.version
    returning t.node_id
  )
  select coalesce(array_agg(distinct node_id), '{}') into o_kept from kept;
  -- Caches learn of vectors as they learn of everything.
  o_version := o_before + (o_kept <> '{}')::int;
  if p_done is not null and v_done >= p_since then
    v_done := greatest(v_done, case when p_done >= o_before then o_version else p_done end);
    update memory.user_metadata set version = o_version, metadata = memory.marked(metadata, p_mark, v_done)
      where user_id = p_user;
  elsif o_version > o_before then
    update memory.user_metadata set version = o_version where user_id = p_user;
  end if;
end
$$;

-- The metadata of a user with a note that up to a version every memory has a vector.
create function memory.marked(p_metadata jsonb, p_mark text, p_version bigint) returns jsonb
language sql immutable parallel safe
as $$
  select p_metadata || jsonb_build_object(
    'embedded', coalesce(p_metadata -> 'embedded', '{}') || jsonb_build_object(p_mark, p_version))
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
  text, uuid, bigint, bigint, text, integer, uuid[], text[], bigint[], public.vector[], public.halfvec[], text)
  from public;
revoke all on function memory.marked(jsonb, text, bigint) from public;
revoke all on function memory.users_to_embed(text, text, integer) from public;
