-- name: apply
-- Operations of one user in one round trip.
select o_user_id as user_id, o_incarnation as incarnation, o_version as version, o_before as before, o_mark as mark,
       o_same as same, o_echo as echo
from memory.apply_user_batch(:user_id, :instance, :ops::jsonb, :vectors, :halves);

-- name: apply_to_several
-- The same for several users.
select o_user_id as user_id, o_incarnation as incarnation, o_version as version, o_before as before, o_mark as mark,
       o_same as same, o_echo as echo
from memory.apply_user_batches(:users, :instance, :ops::jsonb[], :vectors, :halves);

-- name: apply_in_turn
-- The same for one user and several runs, in the order given: each sees what those before it have written.
select applied.o_user_id as user_id, applied.o_incarnation as incarnation, applied.o_version as version,
       applied.o_before as before, applied.o_mark as mark, applied.o_same as same, applied.o_echo as echo
from (
  select sent.instance, sent.ops
  from unnest(:instances::uuid[], :ops::jsonb[]) with ordinality as sent (instance, ops, place)
  order by sent.place
) as sorted
cross join lateral memory.apply_user_batch(:user_id, sorted.instance, sorted.ops, :vectors, :halves) as applied;
