-- The write path: one user's numbered operations, applied exactly once and in order, in one call.

-- An identical memory is found by its hash.
create index nodes_content on memory.nodes (user_id, content_hash) where content_hash is not null;

-- The later of two clocks; a missing one is older than any. Clocks are fixed-width text, so they compare as bytes.
create function memory.later(p_one text, p_other text) returns boolean
language sql immutable parallel safe
as $$ select coalesce(p_one, '') collate "C" > coalesce(p_other, '') collate "C" $$;

-- The same clock for every key of an object, behind a prefix that says which object.
create function memory.clocks_of(p_object jsonb, p_prefix text, p_clock text) returns jsonb
language sql immutable parallel safe
as $$ select coalesce(jsonb_object_agg(p_prefix || k, p_clock), '{}') from jsonb_object_keys(p_object) k $$;

-- Two objects merged key by key, the later clock winning. Equal clocks are decided by the values, so that the result
-- does not depend on the order of arrival.
create function memory.merged(p_old jsonb, p_old_clocks jsonb, p_new jsonb, p_new_clocks jsonb, p_prefix text)
returns jsonb
language sql immutable parallel safe
as $$
  select coalesce(jsonb_object_agg(k, case
           when not p_old ? k then p_new -> k
           when not p_new ? k then p_old -> k
           when memory.later(p_new_clocks ->> (p_prefix || k), p_old_clocks ->> (p_prefix || k)) then p_new -> k
           when memory.later(p_old_clocks ->> (p_prefix || k), p_new_clocks ->> (p_prefix || k)) then p_old -> k
           else greatest(p_old -> k, p_new -> k)
         end), '{}')
  from (select jsonb_object_keys(p_old) union select jsonb_object_keys(p_new)) as keys (k)
$$;

create function memory.merged_clocks(p_old jsonb, p_new jsonb) returns jsonb
language sql immutable parallel safe
as $$
  select coalesce(jsonb_object_agg(k, case
           when memory.later(p_new ->> k, p_old ->> k) then p_new -> k else p_old -> k
         end), '{}')
  from (select jsonb_object_keys(p_old) union select jsonb_object_keys(p_new)) as keys (k)
$$;

create function memory.merged_set(p_one text[], p_other text[]) returns text[]
language sql immutable parallel safe
as $$
  select coalesce(array_agg(v order by v collate "C"), '{}')
  from (select unnest(p_one) union select unnest(p_other)) as members (v)
$$;

-- Whether it only holds the place of an entity that is spoken of and not there yet.
create function memory.is_stub(p_metadata jsonb) returns boolean
language sql immutable parallel safe
as $$ select p_metadata @> '{"stub": true}' $$;

-- What a key of an object lists.
create function memory.listed(p_content jsonb, p_key text) returns text[]
language sql immutable parallel safe
as $$ select array(select jsonb_array_elements_text(coalesce(p_content -> p_key, '[]'))) $$;

-- Everything an entity is called.
create function memory.names_of(p_content jsonb) returns text[]
language sql immutable parallel safe
as $$ select array_remove(memory.listed(p_content, 'aliases') || (p_content ->> 'entity_name'), null) $$;

-- When an entity got its name, which its summary repeats; a report without a name is older than any with one.
create function memory.named_at(p_clocks jsonb) returns text
language sql immutable parallel safe
as $$ select coalesce(p_clocks ->> 'content.entity_name', '0') || coalesce(p_clocks ->> 'row', '') $$;

-- An entity's content: `entity_data` key by key, `other_ids` as a set, `update_count` as a sum, `base_confidence` as the
-- greatest, the rest by key. It is called by the later name; every other name it ever had is an alias.
create function memory.merged_entity(p_old jsonb, p_old_clocks jsonb, p_new jsonb, p_new_clocks jsonb) returns jsonb
language sql immutable parallel safe
as $$
  select both_of.content || jsonb_build_object(
    'entity_data', memory.merged(coalesce(p_old -> 'entity_data', '{}'), p_old_clocks,
                                 coalesce(p_new -> 'entity_data', '{}'), p_new_clocks, 'data.'),
    'aliases', to_jsonb(array_remove(memory.merged_set(memory.names_of(p_old), memory.names_of(p_new)),
                                     both_of.content ->> 'entity_name')),
    'other_ids', to_jsonb(memory.merged_set(memory.listed(p_old, 'other_ids'), memory.listed(p_new, 'other_ids'))),
    'update_count', coalesce((p_old ->> 'update_count')::bigint, 0) + coalesce((p_new ->> 'update_count')::bigint, 0),
    'base_confidence', greatest((p_old ->> 'base_confidence')::double precision,
                                (p_new ->> 'base_confidence')::double precision))
  from (select memory.merged(p_old, p_old_clocks, p_new, p_new_clocks, 'content.')) as both_of (content)
$$;

-- Every report of an entity raises its confidence a little above the best single one.
create function memory.raised_confidence(p_old jsonb, p_new jsonb) returns double precision
language sql immutable parallel safe
as $$
  select least(1, coalesce(greatest((p_old ->> 'base_confidence')::double precision,
                                    (p_new ->> 'base_confidence')::double precision), 1)
    + 0.05 * greatest(0, coalesce((p_old ->> 'update_count')::bigint, 0)
                         + coalesce((p_new ->> 'update_count')::bigint, 0) - 1))
$$;

-- The version of a memory's last write; that of an item of a store stays the same while its expiry is put off. What a
-- memory without a key, which is no item, says of a store is its own.
create function memory.item_version(p_key text, p_metadata jsonb, p_version bigint) returns bigint
language sql immutable parallel safe
as $$
  select case when p_key is null then p_version else coalesce((p_metadata #>> '{store,version}')::bigint, p_version) end
$$;

-- Another id for a node, and for the ends of its relationships; its vectors are left to be made anew. One statement moves
-- both: foreign keys are checked at its end.
create function memory.rename_node(p_user text, p_from uuid, p_to uuid, p_version bigint) returns void
language plpgsql volatile
as $$
begin
  delete from memory.embeddings where user_id = p_user and node_id = p_from;
  with edges as (
    update memory.relationships
      set from_node_id = case when from_node_id = p_from then p_to else from_node_id end,
          to_node_id = case when to_node_id = p_from then p_to else to_node_id end,
          version = p_version
      where user_id = p_user and (from_node_id = p_from or to_node_id = p_from)
  )
  update memory.nodes set node_id = p_to, version = p_version where user_id = p_user and node_id = p_from;
end
$$;

-- Operations without those that were written before the user was erased; `"erased": true` when none is left. They were
-- if they were written for an incarnation that was erased. Written for the present one they were not; for one that
-- nobody knows or that is over for another reason, the time decides.
create function memory.unerased(p_user text, p_ops jsonb) returns jsonb
language plpgsql volatile
as $$
declare
  v_incarnation uuid := (p_ops ->> 'incarnation')::uuid;
  v_erased_at timestamptz;
  v_erased boolean;
  v_list text;
  v_kept jsonb;
  v_none_left boolean := true;
begin
  select max(erased_at), coalesce(bool_or(incarnation = v_incarnation), false) into v_erased_at, v_erased
    from memory.erasures where user_hash = encode(sha256(convert_to(p_user, 'UTF8')), 'hex');
  if v_erased_at is null
     or (not v_erased and exists (
       select from memory.user_metadata where user_id = p_user and incarnation = v_incarnation)) then
    return p_ops;
  end if;
  foreach v_list in array array['nodes', 'entities', 'edges', 'deletes'] loop
    select jsonb_agg(o) into v_kept from jsonb_array_elements(p_ops -> v_list) o
      where not v_erased and (o ->> 'written_at')::timestamptz > v_erased_at;
    p_ops := p_ops - v_list;
    if v_kept is not null then
      p_ops := p_ops || jsonb_build_object(v_list, v_kept);
      v_none_left := false;
    end if;
  end loop;
  return p_ops || jsonb_build_object('erased', v_none_left);
end
$$;

-- The columns of a memory that no cache needs to know.
create function memory.inner_columns() returns text[]
language sql immutable parallel safe
as $$ select '{user_id, content_hash, field_clocks, entity_id, entity_system, entity_type, entity_name, is_new}'::text[] $$;

-- These functions plan once. What is cheap is planned anew with each call as long as arrays are known to be short, which
-- takes as long as a write of one memory; no plan here depends on how much there is.

-- Writes the `nodes` in several users' operations above `p_mark`, but not those numbered in `p_dead`, each user's in the
-- given version. What lost against a later write is not in the answer; `o_told` is what a sender with `"echo": true` does
-- not know of a new one.
create function memory.put_nodes(
  p_users text[], p_ops jsonb[], p_versions bigint[], p_mark bigint, p_dead bigint[], p_now timestamptz
) returns table (o_user_id text, o_node_id uuid, o_context_type text, o_is_new boolean, o_told jsonb)
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
declare
  -- A client's clock may run ahead, but not so far that nobody could ever overwrite what it wrote.
  v_cutoff timestamptz := p_now + interval '60 seconds';
  v_echo boolean := jsonb '{"echo": true}' <@ any (p_ops);
begin
  return query
    insert into memory.nodes as t (
      user_id, node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence,
      external_id, thread_id, seq, namespace, key, content_hash, version, written_at, written_by, created_at,
      updated_at, last_accessed_at, expires_at)
    select s.user_id, o.node_id, o.context_type, o.content, o.content_kind, o.summary, o.tags, o.metadata, o.importance,
           o.confidence, o.external_id, o.thread_id,
           case when o.thread_id is not null then o.seq end,
           o.namespace, o.key, decode(o.content_hash, 'hex'), s.version, least(o.written_at, v_cutoff), o.written_by,
           coalesce(o.created_at, p_now), coalesce(o.updated_at, p_now), coalesce(o.last_accessed_at, p_now),
           o.expires_at
    from unnest(p_users, p_ops, p_versions) as s (user_id, ops, version)
    cross join lateral jsonb_to_recordset(s.ops -> 'nodes') as o (
      n bigint, node_id uuid, context_type text, content jsonb, content_kind text, summary text, tags text[],
      metadata jsonb, importance double precision, confidence double precision, external_id text, thread_id text,
      seq bigint, namespace text[], key text, content_hash text, written_at timestamptz, written_by uuid,
      created_at timestamptz, updated_at timestamptz, last_accessed_at timestamptz, expires_at timestamptz)
    where o.n > p_mark and o.n <> all (p_dead)
    on conflict (user_id, node_id) do update set
      context_type = excluded.context_type, content = excluded.content, content_kind = excluded.content_kind,
      summary = excluded.summary, tags = excluded.tags, metadata = excluded.metadata,
      importance = excluded.importance, confidence = excluded.confidence, external_id = excluded.external_id,
      thread_id = excluded.thread_id,
      -- In another thread it comes last, like whatever is new there.
      seq = case when t.thread_id is not distinct from excluded.thread_id then t.seq else excluded.seq end,
      namespace = excluded.namespace, key = excluded.key,
      content_hash = excluded.content_hash, version = excluded.version, written_at = excluded.written_at,
      written_by = excluded.written_by, updated_at = excluded.updated_at, expires_at = excluded.expires_at
    where (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
      and t.context_type <> 'domain_entity'
    returning t.user_id, t.node_id, t.context_type, xmax = 0, case when v_echo and xmax = 0 then
              jsonb_build_object('node_id', t.node_id, 'seq', t.seq, 'written_at', t.written_at) end;
end
$$;

-- A vector of another text than the one that stands there now is worse than none.
create function memory.drop_outdated_vectors(p_user text, p_changed uuid[]) returns void
language plpgsql volatile
as $$
declare
  v_node uuid;
begin
  foreach v_node in array p_changed loop
    delete from memory.embeddings e
      where e.user_id = p_user and e.node_id = v_node
        and coalesce(e.content_hash <> (
              select n.content_hash from memory.nodes n where n.user_id = p_user and n.node_id = v_node), true);
  end loop;
end
$$;

-- Writes the `vectors` of several users' memories, but not where another text has won. Citus, which looks up the rows of a
-- list in one user's table only, would refuse it.
create function memory.put_vectors(
  p_users text[], p_ops jsonb[], p_versions bigint[], p_vectors public.vector[], p_halves public.halfvec[]
) returns void
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
begin
  insert into memory.embeddings as t (
    user_id, node_id, field, model, dimensions, embedding, embedding_half, content_hash, version)
  select s.user_id, o.node_id, o.field, o.model, o.dimensions,
         case when o.dimensions <= 2000 then p_vectors[o.place] end,
         case when o.dimensions > 2000 then p_halves[o.place] end,
         there.content_hash, s.version
  from unnest(p_users, p_ops, p_versions) as s (user_id, ops, version)
  cross join lateral jsonb_to_recordset(s.ops -> 'vectors') as o (
    node_id uuid, field text, model text, dimensions integer, place integer, content_hash text)
  -- Looked up one by one, however large the users are.
  cross join lateral (
    select n.content_hash from memory.nodes n where n.user_id = s.user_id and n.node_id = o.node_id offset 0
  ) as there
  where there.content_hash is not distinct from decode(o.content_hash, 'hex')
  on conflict (user_id, node_id, field, model) do update set
    dimensions = excluded.dimensions, embedding = excluded.embedding, embedding_half = excluded.embedding_half,
    content_hash = excluded.content_hash, version = excluded.version;
end
$$;

-- Applies what is above the watermark of (user, instance) and moves the watermark in the same transaction, so that
-- sending a batch again changes nothing. `p_ops` holds `user_id`, the `last` number and the `oldest` time of writing in
-- it, and lists of operations by kind, each operation with its number `n`: `nodes`, `entities`, `edges`, `vectors`,
-- `counts`, `deletes`; those that would be empty are left out. A key appears once per list; deletes run last, so a put
-- after a delete of the same node belongs into the next batch. What is above `o_before` was applied; what lost against a
-- later write or deletion is consumed like the rest. A node marked `only_once` that the user has already, with the same
-- content and type under another id, is not stored: `o_same` names the one that is there, which counts as accessed, and
-- relationships of the batch go to that one. It also names the new id of an entity that had another one than its
-- identity gives.
-- A missing end of a relationship raises 23503 with the operation in DETAIL. With `"echo": true` in `p_ops`, `o_echo`
-- tells a cache what is different from version to version: `nodes` and `edges` as they are now, the ids that are
-- `deleted`, and of `new` nodes, which are as they were sent, what the sender does not know; times that he left open are
-- `now`.
-- With `"guarded": true`, a node may carry `if_version`: the version it must have now, 0 for one that is not there. One
-- that has another, or that would lose against what is there, raises 23V01 with the operation in DETAIL.
-- With `embedded`, a name, no memory of the batch lacks a vector that can be made; where that held before, it is noted
-- under that name.
-- `"replayed": true` says that the operations have waited, written for `incarnation` of the user as far as that is known:
-- what was written before the user was erased is dropped, and so is a relationship to a memory that is gone by now.
create function memory.apply_user_batch(
  p_user text, p_instance uuid, p_ops jsonb, p_vectors public.vector[], p_halves public.halfvec[],
  out o_user_id text, out o_incarnation uuid, out o_version bigint, out o_before bigint, out o_mark bigint,
  out o_same jsonb, out o_echo jsonb
)
language plpgsql volatile
as $$
declare
  -- What no cache needs to know.
  c_inner constant text[] := memory.inner_columns();
  v_now timestamptz := clock_timestamp();
  -- A client's clock may run ahead, but not so far that nobody could ever overwrite what it wrote.
  v_cutoff timestamptz := v_now + interval '60 seconds';
  v_written jsonb;
  v_version bigint;
  v_last_deletion timestamptz;
  v_embedded boolean;
  v_late boolean;
  v_mark bigint;
  v_dead bigint[] := '{}';
  v_ids uuid[];
  v_systems text[];
  v_names text[];
  v_known uuid[];
  v_gone uuid[] := '{}';
  v_renamed uuid[] := '{}';
  v_same jsonb := '{}';
  v_once jsonb;
  v_hash bytea;
  v_twins boolean := false;
  v_missing bigint;
  v_misplaced boolean := false;
  v_changed uuid[] := '{}';
  v_wanted boolean := p_ops -> 'echo' = 'true';
  v_exists boolean;
  v_kind text := p_ops ->> 'embedded';
  v_replayed boolean := coalesce(p_ops -> 'replayed' = 'true', false);
  v_node_rows jsonb[] := '{}';
  v_new_rows jsonb[] := '{}';
  v_edge_rows jsonb[] := '{}';
  v_nodes bigint := 0;
  v_entities bigint := 0;
  v_edges bigint := 0;
  v_count bigint;
  v_row record;
begin
  perform memory.bind_users(array[p_user]);
  select incarnation, version, last_deletion,
         v_kind is not null and version <= coalesce((metadata -> 'embedded' ->> v_kind)::bigint, 0)
    into o_incarnation, v_version, v_last_deletion, v_embedded
    from memory.user_metadata where user_id = p_user for update;
  v_exists := found;
  -- After the lock, which whoever erases the user holds until it is done.
  if v_replayed then
    p_ops := memory.unerased(p_user, p_ops);
    if p_ops -> 'erased' = 'true' then
      -- Nothing of an erased user stays, and no row to remember the watermark in.
      o_user_id := p_user;
      o_version := coalesce(v_version, 0);
      o_before := (p_ops ->> 'last')::bigint;
      o_mark := o_before;
      o_same := '{}';
      return;
    end if;
  end if;
  -- Who is there now may be erased before he is locked.
  while not v_exists loop
    insert into memory.user_metadata (user_id, last_deletion)
      values (p_user, (select max(written_at) from memory.tombstones where user_id = p_user))
      on conflict (user_id) do nothing;
    select incarnation, version, last_deletion,
           v_kind is not null and version <= coalesce((metadata -> 'embedded' ->> v_kind)::bigint, 0)
      into o_incarnation, v_version, v_last_deletion, v_embedded
      from memory.user_metadata where user_id = p_user for update;
    v_exists := found;
  end loop;
  -- In a statement after the lock: one that waited for the lock would see the watermark from before the wait.
  select seq into v_mark from memory.applied_watermarks where user_id = p_user and instance_id = p_instance;
  v_mark := coalesce(v_mark, 0);

  if p_ops ->> 'user_id' is distinct from p_user then
    raise exception 'operations of another user' using errcode = '22023';
  end if;
  o_user_id := p_user;
  o_before := v_mark;
  o_mark := greatest(v_mark, (p_ops ->> 'last')::bigint);
  o_version := v_version;
  o_same := '{}';
  if o_mark = o_before then
    return;
  end if;
  v_version := v_version + 1;

  -- Only what was written before some deletion can have been deleted already.
  v_late := v_last_deletion is not null and least((p_ops ->> 'oldest')::timestamptz, v_cutoff) <= v_last_deletion;
  -- Citus takes no outer or anti join between a table and jsonb, hence the arrays. The joins repeat the ids as an
  -- array, so that they are looked up by key however large the user is.
  if v_late then
    v_written := coalesce(p_ops -> 'nodes', '[]') || coalesce(p_ops -> 'entities', '[]');
    select array_agg(o.node_id) into v_ids from jsonb_to_recordset(v_written) as o (node_id uuid);
    select coalesce(array_agg(o.n), '{}') into v_dead
      from jsonb_to_recordset(v_written) as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid)
      join memory.tombstones d on d.user_id = p_user and d.node_id = o.node_id and d.node_id = any (v_ids)
      where (d.written_at, d.written_by) >= (least(o.written_at, v_cutoff), o.written_by);
  end if;

  if p_ops -> 'guarded' = 'true' then
    select min(o.n) into v_missing
      from jsonb_to_recordset(p_ops -> 'nodes')
             as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid, if_version bigint)
      where o.n > v_mark and o.if_version is not null
        and (o.n = any (v_dead)
             or o.if_version <> coalesce((
                  select memory.item_version(t.key, t.metadata, t.version) from memory.nodes t
                  where t.user_id = p_user and t.node_id = o.node_id
                    and (t.expires_at is null or t.expires_at > v_now)), 0)
             or exists (select from memory.nodes t
                        where t.user_id = p_user and t.node_id = o.node_id
                          and (t.written_at, t.written_by) >= (least(o.written_at, v_cutoff), o.written_by)));
    if v_missing is not null then
      raise exception 'another version is there'
        using errcode = '23V01', detail = jsonb_build_object('user_id', p_user, 'n', v_missing)::text;
    end if;
  end if;

  if p_ops ? 'nodes' then
    -- Mostly there is none, which the index alone can tell. A few are looked up one after another, in the order of that
    -- index: for row security and the user the planner takes every user for a small one, and would rather read and sort
    -- all memories of a large one, if it might. For many that is not too much. They are asked for in ways whose plan is
    -- kept, where one for the array would be made anew each time.
    v_once := jsonb_path_query_array(p_ops, '$.nodes[*] ? (@.only_once == true).content_hash');
    if jsonb_array_length(v_once) > 4 then
      v_twins := exists (
        select from memory.nodes where user_id = p_user and content_hash = any (array(
          select decode(h, 'hex') from jsonb_array_elements_text(v_once) h)));
    elsif v_once <> '[]' then
      set local enable_sort = off;
      for v_place in 0 .. jsonb_array_length(v_once) - 1 loop
        v_hash := decode(v_once ->> v_place, 'hex');
        v_twins := v_twins or v_hash is not distinct from (
          select n.content_hash from memory.nodes n where n.user_id = p_user and n.content_hash >= v_hash
          order by n.content_hash limit 1);
      end loop;
      set local enable_sort to default;
    end if;
    if v_twins then
      select coalesce(jsonb_object_agg(twin.new_id, twin.old_id), '{}'), v_dead || coalesce(array_agg(twin.n), '{}')
        into v_same, v_dead
        from (
          select o.n, o.node_id as new_id, min(n.node_id::text) as old_id
          from jsonb_to_recordset(p_ops -> 'nodes')
                 as o (n bigint, node_id uuid, context_type text, content_hash text, only_once boolean)
          join memory.nodes n on n.user_id = p_user and n.content_hash = decode(o.content_hash, 'hex')
            and n.content_hash = any (array(
              select decode(h ->> 'content_hash', 'hex') from jsonb_array_elements(p_ops -> 'nodes') h))
          where o.only_once and o.n > v_mark and n.context_type = o.context_type and n.node_id <> o.node_id
            and (n.expires_at is null or n.expires_at > v_now)
          group by o.n, o.node_id
        ) as twin;
    end if;
    if v_same <> '{}' then
      update memory.nodes set access_count = access_count + 1, last_accessed_at = v_now
        where user_id = p_user and node_id = any (array(select value::uuid from jsonb_each_text(v_same)));
    end if;

    if p_ops @? '$.nodes[*].thread_id ? (@ != null)' then
      -- In its thread a memory stands where it says, or comes last.
      p_ops := jsonb_set(p_ops, '{nodes}', (
        select jsonb_agg(case when o.op ->> 'seq' is not null then o.op
                 else o.op || jsonb_build_object('seq', o.place + (
                   select coalesce(max(e.seq), 0) from memory.nodes e
                   where e.user_id = p_user and e.thread_id = o.op ->> 'thread_id')) end)
        from (
          select op, row_number() over (
            partition by op -> 'thread_id', (op ->> 'n')::bigint > v_mark and (op ->> 'n')::bigint <> all (v_dead)
            order by (op ->> 'n')::bigint) as place
          from jsonb_array_elements(p_ops -> 'nodes') op
        ) as o));
    end if;

    for v_row in
      select * from memory.put_nodes(array[p_user], array[p_ops], array[v_version], v_mark, v_dead, v_now)
    loop
      v_nodes := v_nodes + v_row.o_is_new::int;
      v_misplaced := v_misplaced or v_row.o_context_type = 'domain_entity';
      if not v_row.o_is_new then
        v_changed := v_changed || v_row.o_node_id;
      elsif v_wanted then
        v_new_rows := v_new_rows || v_row.o_told;
      end if;
    end loop;
    if v_wanted and v_changed <> '{}' then
      v_node_rows := array(
        select to_jsonb(n) - c_inner from memory.nodes n where n.user_id = p_user and n.node_id = any (v_changed));
    end if;
    if v_nodes < jsonb_array_length(p_ops -> 'nodes') and not v_misplaced then
      select array_agg(o.node_id) into v_ids
        from jsonb_to_recordset(p_ops -> 'nodes') as o (n bigint, node_id uuid) where o.n > v_mark;
      v_misplaced := exists (
        select from memory.nodes where user_id = p_user and node_id = any (v_ids) and context_type = 'domain_entity');
    end if;
    if v_misplaced then
      raise exception 'an entity is merged, not put' using errcode = '22023';
    end if;
  end if;

  if p_ops ? 'entities' then
    -- An entity that somebody inserted by hand has an id of its own making; the first write that meets it gives it the
    -- one that is derived from its identity, which is the same on every instance.
    select array_agg(o.content ->> 'entity_system'), array_agg(o.content ->> 'entity_id') into v_systems, v_names
      from jsonb_to_recordset(p_ops -> 'entities') as o (content jsonb);
    for v_row in
      select n.node_id as given, o.node_id as derived, o.written_by
      from jsonb_to_recordset(p_ops -> 'entities') as o (n bigint, node_id uuid, content jsonb, written_by uuid)
      join memory.nodes n on n.user_id = p_user and n.context_type = 'domain_entity'
        and n.entity_system = o.content ->> 'entity_system' and n.entity_id = o.content ->> 'entity_id'
        and n.entity_system = any (v_systems) and n.entity_id = any (v_names)
      where o.n > v_mark and o.n <> all (v_dead) and n.node_id <> o.node_id
        and not exists (select from memory.nodes taken where taken.user_id = p_user and taken.node_id = o.node_id)
    loop
      perform memory.rename_node(p_user, v_row.given, v_row.derived, v_version);
      insert into memory.tombstones as t (user_id, node_id, version, written_at, written_by, deleted_at)
        values (p_user, v_row.given, v_version, v_now, v_row.written_by, v_now)
        on conflict (user_id, node_id) do update set
          version = excluded.version, written_at = excluded.written_at, written_by = excluded.written_by,
          deleted_at = excluded.deleted_at;
      v_last_deletion := greatest(v_last_deletion, v_now);
      v_renamed := v_renamed || v_row.given;
      v_same := v_same || jsonb_build_object(v_row.given::text, v_row.derived);
      if v_wanted then
        v_node_rows := v_node_rows || array(
          select to_jsonb(n) - c_inner from memory.nodes n where n.user_id = p_user and n.node_id = v_row.derived);
        v_edge_rows := v_edge_rows || array(
          select to_jsonb(r) - c_inner from memory.relationships r
          where r.user_id = p_user and (r.from_node_id = v_row.derived or r.to_node_id = v_row.derived));
      end if;
    end loop;

    -- What is a stub knows nothing, so it only fills an empty place, and has no clock: whatever is known wins.
    for v_row in
      insert into memory.nodes as t (
        user_id, node_id, context_type, content, summary, tags, metadata, importance, confidence, version, written_at,
        written_by, field_clocks, created_at, updated_at, last_accessed_at, expires_at)
      select p_user, o.node_id, 'domain_entity',
             case when memory.is_stub(o.metadata) then o.content
               else jsonb_build_object('update_count', 1, 'base_confidence', o.confidence) || o.content end,
             o.summary, o.tags, o.metadata, o.importance, o.confidence,
             v_version, least(o.written_at, v_cutoff), o.written_by,
             case when memory.is_stub(o.metadata) then '{}'
               else memory.clocks_of(o.content, 'content.', c.clock)
                 || memory.clocks_of(coalesce(o.content -> 'entity_data', '{}'), 'data.', c.clock)
                 || memory.clocks_of(o.metadata, 'metadata.', c.clock)
                 || jsonb_build_object('row', c.clock) end,
             coalesce(o.created_at, v_now), coalesce(o.updated_at, v_now), coalesce(o.last_accessed_at, v_now),
             o.expires_at
      from jsonb_to_recordset(p_ops -> 'entities') as o (
        n bigint, node_id uuid, content jsonb, summary text, tags text[], metadata jsonb, importance double precision,
        confidence double precision, written_at timestamptz, written_by uuid, created_at timestamptz,
        updated_at timestamptz, last_accessed_at timestamptz, expires_at timestamptz)
      cross join lateral (
        select to_char(least(o.written_at, v_cutoff) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US ') || o.written_by
      ) as c (clock)
      where o.n > v_mark and o.n <> all (v_dead)
      on conflict (user_id, entity_system, entity_id) where context_type = 'domain_entity' do update set
        content = memory.merged_entity(t.content, t.field_clocks, excluded.content, excluded.field_clocks),
        field_clocks = memory.merged_clocks(t.field_clocks, excluded.field_clocks),
        metadata = memory.merged(t.metadata, t.field_clocks, excluded.metadata, excluded.field_clocks, 'metadata.')
                     - 'stub',
        created_at = case when memory.is_stub(t.metadata) then excluded.created_at else t.created_at end,
        tags = memory.merged_set(t.tags, excluded.tags),
        summary = case when memory.later(memory.named_at(excluded.field_clocks), memory.named_at(t.field_clocks))
                    then excluded.summary else t.summary end,
        importance = case when memory.later(excluded.field_clocks ->> 'row', t.field_clocks ->> 'row')
                       then excluded.importance else t.importance end,
        expires_at = case when memory.later(excluded.field_clocks ->> 'row', t.field_clocks ->> 'row')
                       then excluded.expires_at else t.expires_at end,
        confidence = memory.raised_confidence(t.content, excluded.content),
        content_hash = null, version = excluded.version, updated_at = greatest(t.updated_at, excluded.updated_at),
        written_at = case when (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
                       then excluded.written_at else t.written_at end,
        written_by = case when (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
                       then excluded.written_by else t.written_by end
      where not memory.is_stub(excluded.metadata)
      returning t.*, (xmax = 0) as is_new
    loop
      v_nodes := v_nodes + v_row.is_new::int;
      v_entities := v_entities + v_row.is_new::int;
      if v_wanted then
        v_node_rows := v_node_rows || (to_jsonb(v_row) - c_inner);
      end if;
      if not v_row.is_new then
        v_changed := v_changed || v_row.node_id;
      end if;
    end loop;
  end if;

  if v_changed <> '{}' then
    perform memory.drop_outdated_vectors(p_user, v_changed);
  end if;

  if p_ops ? 'edges' then
    if v_same <> '{}' then
      -- Two relationships may have become one by that: the later one counts.
      p_ops := jsonb_set(p_ops, '{edges}', coalesce((
        select jsonb_agg(latest.edge) from (
          select distinct on (edge -> 'from_node_id', edge -> 'to_node_id', edge -> 'relationship_type') edge
          from (
            select e || jsonb_build_object(
              'from_node_id', coalesce(v_same ->> (e ->> 'from_node_id'), e ->> 'from_node_id'),
              'to_node_id', coalesce(v_same ->> (e ->> 'to_node_id'), e ->> 'to_node_id')) as edge
            from jsonb_array_elements(p_ops -> 'edges') e where (e ->> 'n')::bigint > v_mark
          ) as renamed
          order by edge -> 'from_node_id', edge -> 'to_node_id', edge -> 'relationship_type',
                   least((edge ->> 'written_at')::timestamptz, v_cutoff) desc, (edge ->> 'n')::bigint
        ) as latest), '[]'));
    end if;
    select array_agg(o.from_node_id) || array_agg(o.to_node_id) into v_ids
      from jsonb_to_recordset(p_ops -> 'edges') as o (n bigint, from_node_id uuid, to_node_id uuid)
      where o.n > v_mark;
    select coalesce(array_agg(node_id), '{}') into v_known
      from memory.nodes where user_id = p_user and node_id = any (v_ids);
    v_dead := '{}';
    if v_late or v_replayed then
      -- An end that was deleted after the relationship was written takes the relationship with it. So does one that was
      -- removed while the relationship waited, whose tombstone is as old as the memory was.
      select coalesce(array_agg(distinct o.n), '{}') into v_dead
        from jsonb_to_recordset(p_ops -> 'edges')
               as o (n bigint, from_node_id uuid, to_node_id uuid, written_at timestamptz, written_by uuid)
        join memory.tombstones d on d.user_id = p_user and d.node_id in (o.from_node_id, o.to_node_id)
          and d.node_id = any (v_ids)
        where d.node_id <> all (v_known)
          and (v_replayed or (d.written_at, d.written_by) >= (least(o.written_at, v_cutoff), o.written_by));
    end if;
    select min(o.n) into v_missing
      from jsonb_to_recordset(p_ops -> 'edges') as o (n bigint, from_node_id uuid, to_node_id uuid)
      where o.n > v_mark and o.n <> all (v_dead)
        and not (o.from_node_id = any (v_known) and o.to_node_id = any (v_known));
    if v_missing is not null then
      raise exception 'an end of the relationship is missing'
        using errcode = '23503', detail = jsonb_build_object('user_id', p_user, 'n', v_missing)::text;
    end if;

    for v_row in
      insert into memory.relationships as t (
        user_id, from_node_id, to_node_id, relationship_type, strength, metadata, version, written_at, written_by,
        created_at, updated_at)
      select p_user, o.from_node_id, o.to_node_id, o.relationship_type, o.strength, o.metadata, v_version,
             least(o.written_at, v_cutoff), o.written_by, coalesce(o.created_at, v_now),
             coalesce(o.updated_at, v_now)
      from jsonb_to_recordset(p_ops -> 'edges') as o (
        n bigint, from_node_id uuid, to_node_id uuid, relationship_type text, strength double precision, metadata jsonb,
        written_at timestamptz, written_by uuid, created_at timestamptz, updated_at timestamptz)
      where o.n > v_mark and o.n <> all (v_dead)
      on conflict (user_id, from_node_id, to_node_id, relationship_type) do update set
        strength = excluded.strength, metadata = excluded.metadata, version = excluded.version,
        written_at = excluded.written_at, written_by = excluded.written_by, updated_at = excluded.updated_at
      where (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by)
      returning t.*, (xmax = 0) as is_new
    loop
      v_edges := v_edges + v_row.is_new::int;
      if v_wanted then
        v_edge_rows := v_edge_rows || (to_jsonb(v_row) - c_inner);
      end if;
    end loop;
  end if;

  if p_ops ? 'vectors' then
    -- One by one, so that each memory is looked up by key however large the user is. Not where another text has won.
    for v_row in
      select o.node_id, o.field, o.model, o.dimensions, decode(o.content_hash, 'hex') as content_hash,
             case when o.dimensions <= 2000 then p_vectors[o.place] end as whole,
             case when o.dimensions > 2000 then p_halves[o.place] end as half
      from jsonb_to_recordset(p_ops -> 'vectors') as o (
        n bigint, node_id uuid, field text, model text, dimensions integer, place integer, content_hash text)
      where o.n > v_mark
    loop
      insert into memory.embeddings as t (
        user_id, node_id, field, model, dimensions, embedding, embedding_half, content_hash, version)
      select p_user, n.node_id, v_row.field, v_row.model, v_row.dimensions, v_row.whole, v_row.half, n.content_hash,
             v_version
      from memory.nodes n
      where n.user_id = p_user and n.node_id = v_row.node_id and n.content_hash is not distinct from v_row.content_hash
      on conflict (user_id, node_id, field, model) do update set
        dimensions = excluded.dimensions, embedding = excluded.embedding, embedding_half = excluded.embedding_half,
        content_hash = excluded.content_hash, version = excluded.version;
    end loop;
  end if;

  -- What was counted where there was no Postgres; the reports of an entity raise its confidence as if they were told now.
  if p_ops ? 'counts' then
    select array_agg(o.node_id) into v_ids from jsonb_to_recordset(p_ops -> 'counts') as o (node_id uuid);
    for v_row in
      update memory.nodes as t
        set access_count = t.access_count + o.reads,
            last_accessed_at = greatest(t.last_accessed_at, least(coalesce(o.last_accessed_at, v_now), v_now)),
            content = case when t.context_type = 'domain_entity' and o.reports > 0
                        then t.content || jsonb_build_object('update_count',
                          coalesce((t.content ->> 'update_count')::bigint, 0) + o.reports)
                        else t.content end,
            confidence = case when t.context_type = 'domain_entity' and o.reports > 0
                           then memory.raised_confidence(t.content, jsonb_build_object('update_count', o.reports))
                           else t.confidence end,
            version = v_version
        from jsonb_to_recordset(p_ops -> 'counts')
               as o (n bigint, node_id uuid, reports bigint, reads bigint, last_accessed_at timestamptz)
        where o.n > v_mark and t.user_id = p_user and t.node_id = o.node_id and t.node_id = any (v_ids)
        returning t.*
    loop
      if v_wanted then
        v_node_rows := v_node_rows || (to_jsonb(v_row) - c_inner);
      end if;
    end loop;
  end if;

  if p_ops ? 'deletes' then
    select array_agg(o.node_id) into v_ids from jsonb_to_recordset(p_ops -> 'deletes') as o (node_id uuid);
    select coalesce(array_agg(n.node_id) filter (where not k.newer), '{}'),
           coalesce(array_agg(n.node_id) filter (where k.newer), '{}'),
           count(*) filter (where n.context_type = 'domain_entity' and not k.newer)
      into v_gone, v_known, v_count
      from jsonb_to_recordset(p_ops -> 'deletes')
             as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid)
      join memory.nodes n on n.user_id = p_user and n.node_id = o.node_id and n.node_id = any (v_ids)
      cross join lateral (
        select (n.written_at, n.written_by) > (least(o.written_at, v_cutoff), o.written_by)
      ) as k (newer)
      where o.n > v_mark;
    v_nodes := v_nodes - cardinality(v_gone);
    v_entities := v_entities - v_count;
    -- A tombstone tells caches to drop the memory, so none for one that was written later than its deletion.
    insert into memory.tombstones as t (user_id, node_id, version, written_at, written_by, deleted_at)
    select p_user, o.node_id, v_version, least(o.written_at, v_cutoff), o.written_by, v_now
    from jsonb_to_recordset(p_ops -> 'deletes') as o (n bigint, node_id uuid, written_at timestamptz, written_by uuid)
    where o.n > v_mark and o.node_id <> all (v_known)
    on conflict (user_id, node_id) do update set
      version = excluded.version, written_at = excluded.written_at, written_by = excluded.written_by,
      deleted_at = excluded.deleted_at
    where (t.written_at, t.written_by) < (excluded.written_at, excluded.written_by);
    select greatest(v_last_deletion, least(max(o.written_at), v_cutoff)) into v_last_deletion
      from jsonb_to_recordset(p_ops -> 'deletes') as o (written_at timestamptz);
    delete from memory.relationships
      where user_id = p_user and (from_node_id = any (v_gone) or to_node_id = any (v_gone));
    get diagnostics v_count = row_count;
    v_edges := v_edges - v_count;
    delete from memory.nodes where user_id = p_user and node_id = any (v_gone);
  end if;

  update memory.user_metadata
    set version = v_version, last_activity = v_now, node_count = node_count + v_nodes,
        entity_count = entity_count + v_entities, relationship_count = relationship_count + v_edges,
        last_deletion = greatest(last_deletion, v_last_deletion),
        metadata = case when v_embedded then memory.marked(metadata, v_kind, v_version) else metadata end
    where user_id = p_user;
  update memory.applied_watermarks set seq = o_mark, updated_at = v_now
    where user_id = p_user and instance_id = p_instance;
  if not found then
    insert into memory.applied_watermarks (user_id, instance_id, seq, updated_at)
      values (p_user, p_instance, o_mark, v_now);
  end if;
  if v_wanted then
    o_echo := jsonb_build_object(
      'nodes', to_jsonb(v_node_rows), 'new', to_jsonb(v_new_rows), 'now', v_now, 'edges', to_jsonb(v_edge_rows),
      'deleted', to_jsonb(v_renamed || v_gone));
  end if;
  o_version := v_version;
  o_same := v_same;
end
$$;

-- The same for several users in one call, each of whom has one batch. If all of them bring nothing but memories, to be
-- stored as they are, one set of statements does it for all; otherwise it is done for one after the other. Sorted,
-- because two callers that lock users in another order block each other. On Citus users are apart.
create function memory.apply_user_batches(
  p_users text[], p_instance uuid, p_ops jsonb[], p_vectors public.vector[], p_halves public.halfvec[]
) returns table (
  o_user_id text, o_incarnation uuid, o_version bigint, o_before bigint, o_mark bigint, o_same jsonb, o_echo jsonb
)
language plpgsql volatile set plan_cache_mode = force_generic_plan
as $$
declare
  c_depends constant jsonpath := '$.nodes[*] ? (@.thread_id != null || @.context_type == "domain_entity")';
  c_once constant jsonpath := '$.nodes[*] ? (@.only_once == true)';
  v_now timestamptz := clock_timestamp();
  v_cutoff timestamptz := v_now + interval '60 seconds';
  v_users text[];
  v_ops jsonb[];
  v_simple boolean;
  v_once boolean;
  v_there text[];
  v_incarnations uuid[];
  v_versions bigint[];
  v_deletions timestamptz[];
  v_metadata jsonb[];
  v_before bigint[];
  v_embedded boolean[];
  v_new text[];
  v_told jsonb[];
  v_owners text[];
  v_changed uuid[];
  v_changed_rows jsonb[];
begin
  select array_agg(s.user_id order by s.user_id collate "C"), array_agg(s.ops order by s.user_id collate "C"),
         not memory.on_citus()
           and bool_and(s.ops ->> 'user_id' = s.user_id and s.ops -> 'guarded' = 'false' and s.ops ? 'nodes'
                        and not s.ops ?| '{entities, edges, counts, deletes, replayed}' and not s.ops @? c_depends),
         bool_or(s.ops @? c_once)
    into v_users, v_ops, v_simple, v_once
    from unnest(p_users, p_ops) as s (user_id, ops);

  if v_simple then
    perform memory.bind_users(v_users);
    begin
      select array_agg(u.user_id order by u.user_id collate "C"), array_agg(u.incarnation order by u.user_id collate "C"),
             array_agg(u.version + 1 order by u.user_id collate "C"),
             array_agg(u.last_deletion order by u.user_id collate "C"),
             array_agg(u.metadata order by u.user_id collate "C")
        into v_there, v_incarnations, v_versions, v_deletions, v_metadata
        from (select user_id, incarnation, version, last_deletion, metadata from memory.user_metadata
              where user_id = any (v_users) order by user_id collate "C" for update) as u;
      -- Locks of those who are there must not be held while the others are made, in another order.
      if v_there is distinct from v_users then
        raise sqlstate '23V02';
      end if;
    exception when sqlstate '23V02' then
      v_simple := false;
    end;
  end if;
  if v_simple then
    -- In a statement after the locks. Neither are repeats, and what may have been deleted already.
    select array_agg(u.mark order by u.place),
           array_agg(u.ops ->> 'embedded' is not null
                     and u.version <= coalesce((u.metadata -> 'embedded' ->> (u.ops ->> 'embedded'))::bigint, 0) + 1
                     order by u.place),
           bool_and((u.ops #>> '{nodes, 0, n}')::bigint > u.mark
                    and (u.last_deletion is null
                         or u.last_deletion < least((u.ops ->> 'oldest')::timestamptz, v_cutoff)))
      into v_before, v_embedded, v_simple
      from (
        select s.*, coalesce((select w.seq from memory.applied_watermarks w
                              where w.user_id = s.user_id and w.instance_id = p_instance), 0) as mark
        from unnest(v_users, v_ops, v_versions, v_deletions, v_metadata)
               with ordinality as s (user_id, ops, version, last_deletion, metadata, place)
      ) as u;
  end if;
  if v_simple and v_once then
    -- Looked for as for one user. Mostly there is no identical memory; where there may be one, that takes more.
    set local enable_sort = off;
    v_simple := not exists (
      select from unnest(v_users, v_ops) as s (user_id, ops)
      cross join lateral jsonb_to_recordset(s.ops -> 'nodes') as o (content_hash text, only_once boolean)
      cross join lateral (
        select n.content_hash from memory.nodes n
        where n.user_id = s.user_id and n.content_hash >= decode(o.content_hash, 'hex') order by n.content_hash limit 1
      ) as nearest
      where o.only_once and nearest.content_hash = decode(o.content_hash, 'hex'));
    set local enable_sort to default;
  end if;
  if v_simple is not true then
    return query
      select a.* from unnest(v_users, v_ops) as s (user_id, ops)
      cross join lateral memory.apply_user_batch(s.user_id, p_instance, s.ops, p_vectors, p_halves) as a;
    return;
  end if;

  select coalesce(array_agg(w.o_user_id) filter (where w.o_is_new), '{}'), array_agg(w.o_told) filter (where w.o_is_new),
         coalesce(array_agg(w.o_user_id) filter (where not w.o_is_new), '{}'),
         array_agg(w.o_node_id) filter (where not w.o_is_new)
    into v_new, v_told, v_owners, v_changed
    from memory.put_nodes(v_users, v_ops, v_versions, 0, '{}', v_now) as w;
  if cardinality(v_new) + cardinality(v_owners) < (select sum(jsonb_array_length(ops -> 'nodes')) from unnest(v_ops) as ops)
     and exists (
       select from unnest(v_users, v_ops) as s (user_id, ops)
       cross join lateral jsonb_to_recordset(s.ops -> 'nodes') as o (node_id uuid)
       cross join lateral (
         select n.context_type from memory.nodes n where n.user_id = s.user_id and n.node_id = o.node_id offset 0
       ) as there
       where there.context_type = 'domain_entity') then
    raise exception 'an entity is merged, not put' using errcode = '22023';
  end if;
  if v_changed is not null then
    for v_place in 1 .. cardinality(v_changed) loop
      perform memory.drop_outdated_vectors(v_owners[v_place], v_changed[v_place : v_place]);
    end loop;
    select array_agg(t.rows order by t.user_id collate "C") into v_changed_rows
      from (
        select t.user_id, jsonb_agg(t.row) filter (where t.row is not null) as rows
        from (select c.user_id, there.row
              from unnest(v_owners, v_changed) as c (user_id, node_id)
              cross join lateral (
                select to_jsonb(n) - memory.inner_columns() as row from memory.nodes n
                where n.user_id = c.user_id and n.node_id = c.node_id offset 0
              ) as there
              union all select u, null from unnest(v_users) as u) as t
        group by t.user_id
      ) as t;
  end if;
  if cardinality(p_vectors) + cardinality(p_halves) > 0 then
    perform memory.put_vectors(v_users, v_ops, v_versions, p_vectors, p_halves);
  end if;

  update memory.user_metadata as m
    set version = s.version, last_activity = v_now,
        node_count = m.node_count + cardinality(array_positions(v_new, s.user_id)),
        metadata = case when s.embedded then memory.marked(m.metadata, s.ops ->> 'embedded', s.version)
                     else m.metadata end
    from unnest(v_users, v_ops, v_versions, v_embedded) as s (user_id, ops, version, embedded)
    where m.user_id = s.user_id and m.user_id = any (v_users);
  insert into memory.applied_watermarks (user_id, instance_id, seq, updated_at)
    select s.user_id, p_instance, (s.ops ->> 'last')::bigint, v_now from unnest(v_users, v_ops) as s (user_id, ops)
    on conflict (user_id, instance_id) do update set seq = excluded.seq, updated_at = excluded.updated_at;
  return query
    select s.user_id, s.incarnation, s.version, s.before, (s.ops ->> 'last')::bigint, '{}'::jsonb,
           case when s.ops -> 'echo' = 'true' then jsonb_build_object(
             'nodes', coalesce(s.changed, '[]'), 'now', v_now, 'edges', '[]'::jsonb, 'deleted', '[]'::jsonb,
             'new', (select coalesce(jsonb_agg(new.told), '[]') from unnest(v_new, v_told) as new (user_id, told)
                     where new.user_id = s.user_id)) end
    from unnest(v_users, v_ops, v_incarnations, v_versions, v_before, v_changed_rows)
           as s (user_id, ops, incarnation, version, before, changed);
end
$$;

revoke all on function memory.later(text, text) from public;
revoke all on function memory.clocks_of(jsonb, text, text) from public;
revoke all on function memory.merged(jsonb, jsonb, jsonb, jsonb, text) from public;
revoke all on function memory.merged_clocks(jsonb, jsonb) from public;
revoke all on function memory.merged_set(text[], text[]) from public;
revoke all on function memory.is_stub(jsonb) from public;
revoke all on function memory.listed(jsonb, text) from public;
revoke all on function memory.names_of(jsonb) from public;
revoke all on function memory.named_at(jsonb) from public;
revoke all on function memory.merged_entity(jsonb, jsonb, jsonb, jsonb) from public;
revoke all on function memory.item_version(text, jsonb, bigint) from public;
revoke all on function memory.rename_node(text, uuid, uuid, bigint) from public;
revoke all on function memory.raised_confidence(jsonb, jsonb) from public;
revoke all on function memory.unerased(text, jsonb) from public;
revoke all on function memory.inner_columns() from public;
revoke all on function memory.put_nodes(text[], jsonb[], bigint[], bigint, bigint[], timestamptz) from public;
revoke all on function memory.drop_outdated_vectors(text, uuid[]) from public;
revoke all on function memory.put_vectors(text[], jsonb[], bigint[], public.vector[], public.halfvec[]) from public;
revoke all on function memory.apply_user_batches(
  text[], uuid, jsonb[], public.vector[], public.halfvec[]) from public;
revoke all on function memory.apply_user_batch(text, uuid, jsonb, public.vector[], public.halfvec[]) from public;
