-- The boot in which a step was decided: who takes over from a dead controller tells a reboot by it.
ALTER TABLE steps ADD COLUMN boot TEXT NOT NULL DEFAULT '';
