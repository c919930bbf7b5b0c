-- Finding in the memory of users that are too large for a process: which memories may be meant, by words and by vectors.
-- A process takes those and ranks them as it ranks everything else.

-- What is known of the words of a large user, in portions of memories that were read together: for each term the
-- memories that have it, and how much it counts in each. A memory that has changed since `version` counts no more.
-- Not an index of Postgres for texts or arrays: row security keeps their operators from being used, as they may leak.
create table memory.postings (
  user_id text not null check (user_id <> ''),
  term text not null,
  portion bigint not null,
  version bigint not null,
  node_ids uuid[] not null,
  weights real[] not null,
  primary key (user_id, term, portion)
);

alter table memory.postings enable row level security, force row level security;
create policy bound_users on memory.postings
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy maintenance on memory.postings to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');

-- When what a memory tells happened: what a message says of itself, else when the memory was made.
create function memory.happened_at(p_type text, p_content jsonb, p_created timestamptz) returns timestamptz
language plpgsql stable parallel safe
as $$
begin
  if p_type = 'conversation_message' and p_content ? 'at' then
    return (p_content ->> 'at')::timestamptz;
  end if;
  return p_created;
exception when data_exception then
  return p_created;
end
$$;

-- Whether a memory passes the filters of a question: `at` (what has expired by then does not), `types`, `tags` (in lower
-- case), `thread`, `metadata`, `since`, `until`, `namespace` (how that of an item begins). Tags beyond ASCII pass whatever
-- they say: lower case is another one here than where the process compares them. Without a query inside it is put into
-- the statement that calls it.
create function memory.passes(p_node memory.nodes, p_filters jsonb) returns boolean
language sql stable parallel safe
as $$
  select (p_node.expires_at is null or p_node.expires_at > (p_filters ->> 'at')::timestamptz)
    and (not p_filters ? 'types' or p_filters -> 'types' ? p_node.context_type)
    and (not p_filters ? 'thread' or p_node.thread_id = p_filters ->> 'thread')
    and (not p_filters ? 'metadata' or p_node.metadata @> (p_filters -> 'metadata'))
    and (not p_filters ? 'tags' or p_node.tags::text ~ '[^[:ascii:]]'
         or to_jsonb(lower(p_node.tags::text collate "C")::text[]) @> (p_filters -> 'tags'))
    and (not p_filters ? 'since'
         or memory.happened_at(p_node.context_type, p_node.content, p_node.created_at)
            >= (p_filters ->> 'since')::timestamptz)
    and (not p_filters ? 'until'
         or memory.happened_at(p_node.context_type, p_node.content, p_node.created_at)
            <= (p_filters ->> 'until')::timestamptz)
    and (not p_filters ? 'namespace'
         or to_jsonb(p_node.namespace[1:jsonb_array_length(p_filters -> 'namespace')]) = p_filters -> 'namespace')
    and not (p_node.context_type = 'domain_entity' and memory.is_stub(p_node.metadata))
$$;

-- The words of a memory.
create function memory.words_of(p_language regconfig, p_node memory.nodes) returns tsvector
language sql stable parallel safe
as $$
  select to_tsvector(p_language, p_node.content)
    || to_tsvector(p_language, p_node.summary || ' ' || array_to_string(p_node.tags, ' '))
$$;

-- Takes in the words of at most so many memories that came or changed since the last time; how many there were. Another
-- language, or as many outdated memories as valid ones, begin anew. What is known so far is in `user_metadata.metadata`
-- under `words`. One session at a time; writers are not held up.
create function memory.index_words(p_user text, p_language text, p_most integer) returns bigint
language plpgsql volatile
as $$
declare
  -- As usual for BM25.
  c_saturation constant double precision := 1.2;
  c_length constant double precision := 0.5;
  c_last_id constant uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
  v_words jsonb;
  v_version bigint;
  v_size bigint;
  v_after_version bigint;
  v_after uuid;
  v_ids uuid[];
  v_last_version bigint;
  v_last uuid;
  v_portion bigint;
  v_documents bigint;
  v_average double precision;
  v_count bigint;
begin
  perform memory.bind_users(array[p_user]);
  if not pg_try_advisory_xact_lock(hashtextextended('hybrid_memory.words.' || p_user, 0)) then
    return 0;
  end if;
  select metadata -> 'words', version, node_count into v_words, v_version, v_size
    from memory.user_metadata where user_id = p_user;
  if not found then
    return 0;
  end if;
  if v_words ->> 'language' is distinct from p_language or (v_words ->> 'documents')::bigint > 2 * v_size + p_most then
    delete from memory.postings where user_id = p_user;
    v_words := null;
  end if;
  v_after_version := coalesce((v_words ->> 'version')::bigint, -1);
  v_after := coalesce((v_words ->> 'after')::uuid, '00000000-0000-0000-0000-000000000000');
  v_portion := coalesce((v_words ->> 'portions')::bigint, 0) + 1;
  v_documents := coalesce((v_words ->> 'documents')::bigint, 0);
  v_average := (v_words ->> 'average')::double precision;

  select array_agg(node_id), count(*), max(version) into v_ids, v_count, v_last_version
    from (select n.node_id, n.version from memory.nodes n
          where n.user_id = p_user and n.version >= v_after_version
            and (n.version, n.node_id) > (v_after_version, v_after) and n.version <= v_version
          order by n.version, n.node_id limit p_most) as next;
  if v_count = 0 then
    v_last_version := greatest(v_after_version, v_version);
    v_last := c_last_id;
  else
    select n.node_id into v_last from memory.nodes n
      where n.user_id = p_user and n.node_id = any (v_ids) and n.version = v_last_version
      order by n.node_id desc limit 1;
    with words as materialized (
      select n.node_id, w.lexeme as term, coalesce(cardinality(w.positions), 1) as times
      from memory.nodes n cross join lateral unnest(memory.words_of(p_language::regconfig, n)) as w
      where n.user_id = p_user and n.node_id = any (v_ids)
    ), lengths as (
      select node_id, sum(times) as length from words group by node_id
    ), average as (
      select coalesce(v_average, avg(length), 1) as length from lengths
    ), kept as (
      insert into memory.postings (user_id, term, portion, version, node_ids, weights)
      select p_user, w.term, v_portion, v_version, array_agg(w.node_id),
             array_agg((w.times * (c_saturation + 1)
                        / (w.times + c_saturation * (1 - c_length + c_length * l.length / a.length)))::real)
      from words w join lengths l on l.node_id = w.node_id cross join average a
      where octet_length(w.term) <= 200
      group by w.term
    )
    select length into v_average from average;
  end if;
  update memory.user_metadata
    set metadata = metadata || jsonb_build_object('words', jsonb_build_object(
      'language', p_language, 'version', v_last_version, 'after', v_last, 'portions', v_portion,
      'documents', v_documents + v_count, 'average', v_average))
    where user_id = p_user;
  return v_count;
end
$$;

-- Memories of a large user that share words with a question, those that may fit best first. What came since its words were
-- taken in is looked through, the latest of it if it is much.
create function memory.worded(p_user text, p_language text, p_question text, p_filters jsonb, p_most integer)
returns table (o_node_id uuid, o_score double precision)
language plpgsql stable
as $$
declare
  c_recent constant integer := 5000;
  v_words jsonb;
  v_query tsvector := to_tsvector(p_language::regconfig, p_question);
  v_terms text[] := tsvector_to_array(v_query);
  v_known text[];
  v_rarities double precision[];
  v_documents double precision;
begin
  select metadata -> 'words' into v_words from memory.user_metadata where user_id = p_user;
  v_documents := coalesce((v_words ->> 'documents')::double precision, 0);
  -- What nearly every memory says tells nothing, and would have to be read for nearly every memory.
  select array_agg(term), array_agg(ln(1 + (v_documents - holders + 0.5) / (holders + 0.5)))
    into v_known, v_rarities
    from (select term, holders from (
            select term, sum(cardinality(node_ids)) as holders, min(sum(cardinality(node_ids))) over () as fewest
            from memory.postings where user_id = p_user and term = any (v_terms) group by term) as counted
          where holders <= greatest(0.1 * v_documents, fewest)) as told;
  return query
    with indexed as materialized (
      select held.node_id, max(p.version) as version, sum(held.weight * r.rarity) as score
      from memory.postings p
      join unnest(v_known, v_rarities) as r (term, rarity) on r.term = p.term
      cross join lateral unnest(p.node_ids, p.weights) as held (node_id, weight)
      where p.user_id = p_user and p.term = any (v_known)
      group by held.node_id
    ), best as (
      select i.node_id, i.score
      from (select * from indexed order by score desc, node_id) as i
      cross join lateral (
        select n.node_id from memory.nodes n
        where n.user_id = p_user and n.node_id = i.node_id and n.version <= i.version
          and memory.passes(n, p_filters)
        limit 1
      ) as passing
      limit p_most
    ), latest as materialized (
      select n.* from memory.nodes n
      where n.user_id = p_user and n.version > coalesce((v_words ->> 'version')::bigint, -1)
      order by n.version desc limit c_recent
    ), recent as (
      select l.node_id, sum(coalesce(ln(v_documents + 2), 1)) as score
      from latest l cross join lateral unnest(memory.words_of(p_language::regconfig, l)) as w
      where w.lexeme = any (v_terms) and memory.passes(l, p_filters)
      group by l.node_id order by score desc limit p_most
    )
    select node_id, max(score)::double precision from (table best union all table recent) as both_of
    group by node_id order by 2 desc, 1 limit p_most;
end
$$;

-- Memories of a user whose vectors are nearest to a question, compared one by one.
create function memory.nearest(
  p_user text, p_model text, p_dimensions integer, p_vector public.vector, p_half public.halfvec, p_filters jsonb,
  p_most integer
) returns table (o_node_id uuid, o_cosine double precision)
language sql stable
as $$
  with compared as materialized (
    select e.node_id, 1 - min(coalesce(e.embedding operator(public.<=>) p_vector,
                                       e.embedding_half operator(public.<=>) p_half)) as cosine
    from memory.embeddings e
    where e.user_id = p_user and e.model = p_model and e.dimensions = p_dimensions
    group by e.node_id
  )
  select c.node_id, c.cosine
  from (select * from compared order by cosine desc, node_id) as c
  cross join lateral (
    select n.node_id from memory.nodes n
    where n.user_id = p_user and n.node_id = c.node_id and memory.passes(n, p_filters)
    limit 1
  ) as passing
  limit p_most
$$;

-- The same among those that came after a version and are not in the index. A statement of its own: one for both could not
-- use the index of versions.
create function memory.nearest_latest(
  p_user text, p_model text, p_dimensions integer, p_vector public.vector, p_half public.halfvec, p_filters jsonb,
  p_after bigint, p_most integer
) returns table (o_node_id uuid, o_cosine double precision)
language sql stable
as $$
  select e.node_id, 1 - min(coalesce(e.embedding operator(public.<=>) p_vector,
                                     e.embedding_half operator(public.<=>) p_half)) as cosine
  from memory.embeddings e
  join memory.nodes n on n.user_id = p_user and n.node_id = e.node_id
  where e.user_id = p_user and e.model = p_model and e.dimensions = p_dimensions
    and e.version > p_after and not e.ann and memory.passes(n, p_filters)
  group by e.node_id order by cosine desc, e.node_id limit p_most
$$;

-- The name of the index over large users' vectors of a model, given as `model/dimensions`.
create function memory.ann_index(p_mark text) returns text
language sql immutable parallel safe
as $$ select 'embeddings_ann_' || left(md5(p_mark), 16) $$;

-- Whether it is there. A table is found by its name in the schema of this function's tables.
create function memory.has_ann_index(p_mark text) returns boolean
language sql stable
as $$
  select exists (
    select from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
    where i.indisvalid and c.relname = memory.ann_index(p_mark)
      and c.relnamespace = (select t.relnamespace from pg_catalog.pg_class t
                            where t.oid = (select tableoid from memory.deployment)))
$$;

-- How many vectors it holds of all users, about; null when it is not there, nothing or less when nobody knows.
create function memory.ann_index_size(p_mark text) returns real
language sql stable
as $$
  select c.reltuples from pg_catalog.pg_class c
  where memory.has_ann_index(p_mark) and c.relname = memory.ann_index(p_mark)
    and c.relnamespace = (select t.relnamespace from pg_catalog.pg_class t
                          where t.oid = (select tableoid from memory.deployment))
$$;

-- Makes it, over the rows that are marked `ann`. It is made before the first row is marked, so it takes no time then.
create function memory.create_ann_index(p_model text, p_dimensions integer) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_schema text := (select relnamespace::regnamespace::text from pg_class
                    where oid = (select tableoid from memory.deployment));
  v_vectors text := (select extnamespace::regnamespace::text from pg_extension where extname = 'vector');
  v_kind text := case when p_dimensions <= 2000 then 'vector' else 'halfvec' end;
begin
  if p_dimensions not between 1 and 4000 then
    raise exception 'vectors of % dimensions are not kept', p_dimensions using errcode = '22023';
  end if;
  execute format(
    'create index if not exists %I on %s.embeddings using hnsw ((%I::%s.%s(%s)) %s.%s_cosine_ops)'
    ' where ann and model = %L and dimensions = %s',
    memory.ann_index(p_model || '/' || p_dimensions), v_schema,
    case when p_dimensions <= 2000 then 'embedding' else 'embedding_half' end,
    v_vectors, v_kind, p_dimensions, v_vectors, v_kind, p_model, p_dimensions);
end
$$;

-- The same through the index of the model: nearly always the nearest, among those that are marked. The statement has to
-- say model and dimensions literally, or the index is not that of the statement.
create function memory.nearest_by_index(
  p_user text, p_model text, p_dimensions integer, p_vector public.vector, p_half public.halfvec, p_filters jsonb,
  p_most integer
) returns table (o_node_id uuid, o_cosine double precision)
language plpgsql volatile
as $$
declare
  v_vectors text := (select extnamespace::regnamespace::text from pg_catalog.pg_extension where extname = 'vector');
  v_schema text := (select relnamespace::regnamespace::text from pg_catalog.pg_class
                    where oid = (select tableoid from memory.deployment));
  v_kind text := case when p_dimensions <= 2000 then 'vector' else 'halfvec' end;
  v_column text := case when p_dimensions <= 2000 then 'embedding' else 'embedding_half' end;
begin
  -- Other users' vectors may be nearer: the index is searched on until there are enough of this one's.
  execute 'set local hnsw.iterative_scan = relaxed_order';
  execute 'set local hnsw.ef_search = 200';
  return query execute format(
    'select near.node_id, max(1 - near.distance)::double precision'
    ' from (select e.node_id, (e.%1$I::%2$s.%3$s(%4$s)) operator(%2$s.<=>) $2::%2$s.%3$s(%4$s) as distance'
    '       from %5$s.embeddings e'
    '       where e.ann and e.model = %6$L and e.dimensions = %4$s and e.user_id = $1'
    '       order by (e.%1$I::%2$s.%3$s(%4$s)) operator(%2$s.<=>) $2::%2$s.%3$s(%4$s) limit %7$s) as near'
    ' join %5$s.nodes n on n.user_id = $1 and n.node_id = near.node_id'
    ' where %5$s.passes(n, $3)'
    ' group by near.node_id order by 2 desc, 1',
    v_column, v_vectors, v_kind, p_dimensions, v_schema, p_model, p_most)
    using p_user, coalesce(p_vector::text, p_half::text), p_filters;
end
$$;

-- Indexes that vectors are marked for and that are not there, as `model/dimensions`.
create function memory.missing_ann_indexes() returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select distinct marked.mark
               from memory.user_metadata m cross join lateral jsonb_object_keys(m.metadata -> 'ann') as marked (mark)
               where m.metadata ? 'ann' and not memory.has_ann_index(marked.mark) order by marked.mark;
  perform memory.set_scope(v_scope);
end
$$;

-- Large users: those after `p_after` with at least so many memories.
create function memory.large_users(p_after text, p_size bigint, p_most integer) returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
  v_scope text := coalesce(current_setting('memory.scope', true), '');
begin
  perform memory.set_scope('all');
  return query select user_id from memory.user_metadata
               where user_id > p_after and node_count >= p_size order by user_id limit p_most;
  perform memory.set_scope(v_scope);
end
$$;

revoke all on function memory.happened_at(text, jsonb, timestamptz) from public;
revoke all on function memory.passes(memory.nodes, jsonb) from public;
revoke all on function memory.words_of(regconfig, memory.nodes) from public;
revoke all on function memory.index_words(text, text, integer) from public;
revoke all on function memory.worded(text, text, text, jsonb, integer) from public;
revoke all on function memory.nearest(
  text, text, integer, public.vector, public.halfvec, jsonb, integer) from public;
revoke all on function memory.nearest_latest(
  text, text, integer, public.vector, public.halfvec, jsonb, bigint, integer) from public;
revoke all on function memory.ann_index(text) from public;
revoke all on function memory.has_ann_index(text) from public;
revoke all on function memory.ann_index_size(text) from public;
revoke all on function memory.missing_ann_indexes() from public;
revoke all on function memory.create_ann_index(text, integer) from public;
revoke all on function memory.nearest_by_index(
  text, text, integer, public.vector, public.halfvec, jsonb, integer) from public;
revoke all on function memory.large_users(text, bigint, integer) from public;
