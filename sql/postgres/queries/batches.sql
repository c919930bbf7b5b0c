-- name: apply
-- Operations of several users in one round trip. Sorted, because two callers that lock users in another order block
-- each other.
select applied.o_user_id as user_id, applied.o_version as version, applied.o_mark as mark,
       applied.o_applied as applied, applied.o_same as same
from (
  select sent.user_id, sent.ops from unnest(:users::text[], :ops::jsonb[]) as sent (user_id, ops)
  order by sent.user_id collate "C"
) as sorted
cross join lateral memory.apply_user_batch(sorted.user_id, :instance, sorted.ops, :vectors, :halves) as applied;
