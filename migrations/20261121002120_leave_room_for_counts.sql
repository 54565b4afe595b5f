-- Rows that are counted up with every batch of usage keep room for their next versions on the same page, so that PostgreSQL
-- need not touch their indexes (HOT updates). It holds for pages filled from now on.
ALTER TABLE usage_hours SET (fillfactor = 70);
ALTER TABLE usage_keys SET (fillfactor = 50);
ALTER TABLE usage_periods SET (fillfactor = 50);
ALTER TABLE unbilled_units SET (fillfactor = 50);
