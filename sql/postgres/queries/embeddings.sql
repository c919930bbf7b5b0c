-- name: keep
-- Vectors of several users' memories, in one round trip; each user's are those from the `first` place to the `last` one.
-- Sorted, because two callers that lock users in another order block each other.
select kept.o_user_id as user_id, kept.o_incarnation as incarnation, kept.o_before as before, kept.o_version as version,
       kept.o_kept as kept
from (
  select sent.* from unnest(
    :owners::text[], :incarnations::uuid[], :sinces::bigint[], :dones::bigint[], :firsts::integer[], :lasts::integer[]
  ) as sent (owner, incarnation, since, done, first, last)
  order by sent.owner collate "C"
) as sorted
cross join lateral memory.keep_vectors(
  sorted.owner, sorted.incarnation, sorted.since, sorted.done, :model, :dimensions,
  (:nodes::uuid[])[sorted.first : sorted.last], (:fields::text[])[sorted.first : sorted.last],
  (:versions::bigint[])[sorted.first : sorted.last], (:vectors::public.vector[])[sorted.first : sorted.last],
  (:halves::public.halfvec[])[sorted.first : sorted.last], :mark
) as kept;

-- name: users_to_embed
-- Users who may have memories without a vector, in pages.
select * from memory.users_to_embed(:after, :mark, :most) as named (user_id);

-- name: standing
-- Where a user is, and up to which version every memory of his has a vector.
select incarnation, version, node_count, coalesce((metadata -> 'embedded' ->> :mark)::bigint, 0) as done
from memory.user_metadata where user_id = :user_id;

-- name: lacking
-- Memories without a vector of a model, page by page, those that changed first coming first. `offset 0` keeps the planner
-- from reading all vectors of the user for the few memories that are asked about.
select node_id, context_type, content, content_kind, summary, tags, metadata, importance, confidence, external_id,
       thread_id, seq, namespace, key, version, written_at, written_by, created_at, updated_at, last_accessed_at,
       access_count, expires_at
from memory.nodes n
where user_id = :user_id and version >= :version and (version, node_id) > (:version, :after)
  and (expires_at is null or expires_at > :at)
  and not (context_type = 'domain_entity' and metadata @> '{"stub": true}')
  and not exists (select from memory.embeddings e
                  where e.user_id = :user_id and e.node_id = n.node_id and e.model = :model
                    and e.dimensions = :dimensions offset 0)
order by version, node_id
limit :most;

-- name: lacking_count
-- How many there are after a version.
select count(*)
from memory.nodes n
where user_id = :user_id and version > :version and (expires_at is null or expires_at > :at)
  and not (context_type = 'domain_entity' and metadata @> '{"stub": true}')
  and not exists (select from memory.embeddings e
                  where e.user_id = :user_id and e.node_id = n.node_id and e.model = :model
                    and e.dimensions = :dimensions);

-- name: models
-- Which vectors a user has.
select model, dimensions, count(*) as vectors
from memory.embeddings where user_id = :user_id
group by model, dimensions order by count(*) desc, model;

-- name: changed_since
-- The vectors of some models that a process at a version has not seen.
select node_id, field, model, embedding as whole, embedding_half as half
from memory.embeddings
where user_id = :user_id and version > :version and model = any (:models);

-- name: of_changed_nodes
-- The memories that have changed since a version, each with the vectors it still has.
select n.node_id, e.field, e.model, e.embedding as whole, e.embedding_half as half
from memory.nodes n
left join memory.embeddings e on e.user_id = :user_id and e.node_id = n.node_id and e.model = any (:models)
where n.user_id = :user_id and n.version > :version;
