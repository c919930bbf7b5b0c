-- name: standing
-- Which database this is, and how far it is.
select o_epoch as epoch, o_server as server, o_position as position from memory.standing();

-- name: renew
-- The database was restored: every process has to start anew.
select memory.renew_epoch(:epoch);
