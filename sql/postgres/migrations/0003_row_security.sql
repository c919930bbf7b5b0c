-- A statement sees and writes the rows of the users its transaction is bound to, whatever its text says. The owner is
-- held to it too (force), and sees all users only with `set memory.scope = 'all'`.

create function memory.bound_hashes() returns text[]
language sql stable parallel safe
as $$
  select array(select encode(sha256(convert_to(u, 'UTF8')), 'hex') from unnest(memory.bound()) as u)
$$;
revoke all on function memory.bound_hashes() from public;

alter table memory.user_metadata enable row level security, force row level security;
alter table memory.nodes enable row level security, force row level security;
alter table memory.relationships enable row level security, force row level security;
alter table memory.embeddings enable row level security, force row level security;
alter table memory.tombstones enable row level security, force row level security;
alter table memory.applied_watermarks enable row level security, force row level security;
alter table memory.erasures enable row level security, force row level security;

create policy bound_users on memory.user_metadata
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.nodes
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.relationships
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.embeddings
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.tombstones
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.applied_watermarks
  using (user_id = any (memory.bound())) with check (user_id = any (memory.bound()));
create policy bound_users on memory.erasures
  using (user_hash = any (memory.bound_hashes())) with check (user_hash = any (memory.bound_hashes()));

create policy maintenance on memory.user_metadata to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.nodes to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.relationships to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.embeddings to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.tombstones to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.applied_watermarks to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
create policy maintenance on memory.erasures to current_user
  using (current_setting('memory.scope', true) = 'all') with check (current_setting('memory.scope', true) = 'all');
