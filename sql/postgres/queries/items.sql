-- name: namespaces
-- In which namespaces an owner has items.
select distinct namespace from memory.nodes
where user_id = :user_id and namespace is not null and (expires_at is null or expires_at > :at);

-- name: owners
-- Who has items, in pages.
select * from memory.store_owners(:after, :most) as named (user_id);

-- name: refresh
-- Puts off the expiry of items that were read.
select memory.refresh_items(:owner, :node_ids);
