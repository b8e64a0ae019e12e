-- What a recovery remembers. Times are seconds since the epoch. Lists and dicts are JSON.
-- Nothing newer than SQLite 3.24 is used: distributions with long support still have 3.34.

CREATE TABLE attempts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  host TEXT NOT NULL,
  host_group TEXT NOT NULL,
  actor TEXT NOT NULL,
  causes TEXT NOT NULL,
  subjects TEXT NOT NULL,
  rung TEXT NOT NULL,
  evidence TEXT NOT NULL,
  begun REAL NOT NULL,
  ended REAL,
  result TEXT CHECK (result IN ('recovered', 'quarantined', 'stopped')),
  words TEXT NOT NULL DEFAULT '',
  CHECK ((ended IS NULL) = (result IS NULL))
);
CREATE UNIQUE INDEX one_open_attempt_a_host ON attempts (host) WHERE ended IS NULL;
CREATE INDEX attempts_by_host ON attempts (host, begun);
CREATE INDEX attempts_by_time ON attempts (begun);

CREATE TABLE steps (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  attempt INTEGER NOT NULL REFERENCES attempts (id),
  rung TEXT NOT NULL,
  subjects TEXT NOT NULL,
  reason TEXT NOT NULL,
  deadline_s REAL NOT NULL,
  begun REAL NOT NULL,
  ended REAL,
  outcome TEXT CHECK (outcome IN ('done', 'failed', 'unknown', 'refused')),
  proof TEXT CHECK (proof IN ('good', 'bad', 'unknown')),
  words TEXT NOT NULL DEFAULT '',
  CHECK ((ended IS NULL) = (outcome IS NULL))
);
CREATE UNIQUE INDEX one_step_in_flight ON steps (attempt) WHERE ended IS NULL;
CREATE INDEX steps_by_attempt ON steps (attempt, id);

CREATE TABLE locks (
  host TEXT PRIMARY KEY,
  actor TEXT NOT NULL,
  since REAL NOT NULL,
  expires REAL NOT NULL
);

CREATE TABLE marks (
  host TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('maintenance', 'do-not-touch', 'quarantine')),
  by TEXT NOT NULL,
  why TEXT NOT NULL,
  at REAL NOT NULL,
  until REAL,
  PRIMARY KEY (host, kind)
);

CREATE TABLE sightings (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  host TEXT NOT NULL,
  at REAL NOT NULL,
  causes TEXT NOT NULL,
  factors TEXT NOT NULL
);
CREATE INDEX sightings_by_time ON sightings (at);

CREATE TABLE breaker (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  open INTEGER NOT NULL CHECK (open IN (0, 1)),
  since REAL NOT NULL,
  why TEXT NOT NULL,
  hosts TEXT NOT NULL,
  closed_by TEXT NOT NULL,
  closed_at REAL NOT NULL
);
INSERT INTO breaker VALUES (1, 0, 0, '', '[]', '', 0);

-- Who changed what beside the attempts: marks, take-overs of locks, the breaker. Only ever added to.
CREATE TABLE journal (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at REAL NOT NULL,
  what TEXT NOT NULL,
  host TEXT NOT NULL,
  by TEXT NOT NULL,
  words TEXT NOT NULL
);
CREATE INDEX journal_by_time ON journal (at);
