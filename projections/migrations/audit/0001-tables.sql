-- The audit view's tables, in a generation's own schema. Written by projections/audit.py in one
-- transaction with `positions`; readers use the views of projections/migrations/readers.sql.
-- Numbers are as wide as the log's. Rows that change leave room on their page, and no index holds
-- a column that changes, so that a change stays on its page.

CREATE TABLE positions (
    shard integer PRIMARY KEY,
    next_offset bigint NOT NULL,
    epoch bigint NOT NULL,
    owner bytea NOT NULL,
    seq bigint NOT NULL,
    value bytea NOT NULL,
    at timestamptz NOT NULL,
    commands bigint NOT NULL,
    reports bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE jobs (
    shard integer NOT NULL,
    job_no bigint NOT NULL,
    job_id uuid NOT NULL,
    command_offset bigint NOT NULL,
    priority bigint NOT NULL,
    attempt integer NOT NULL,
    retries_used integer NOT NULL,
    submitted_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    tasks bigint NOT NULL,
    min_members bigint NOT NULL,
    cpu_milli bigint NOT NULL,
    memory_mib bigint NOT NULL,
    gpu_milli bigint NOT NULL,
    timeout_s bigint NOT NULL,
    start_timeout_s bigint NOT NULL,
    grace_s bigint NOT NULL,
    max_retries bigint NOT NULL,
    backoff_s bigint NOT NULL,
    backoff_multiplier_milli bigint NOT NULL,
    backoff_max_s bigint NOT NULL,
    defaults_version integer NOT NULL,
    key_id bigint NOT NULL,
    spec_schema_id bigint NOT NULL,
    tenant text NOT NULL,
    pool text NOT NULL,
    queue text NOT NULL,
    topology text NOT NULL,
    state text NOT NULL,
    failure text NOT NULL,
    due_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    message text NOT NULL,
    actor text NOT NULL,
    job_type text NOT NULL,
    name text NOT NULL,
    extras jsonb,
    gpu_models jsonb,
    node_selector jsonb,
    spec bytea NOT NULL,
    PRIMARY KEY (shard, job_no)
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX jobs_by_id ON jobs (job_id);
CREATE INDEX jobs_by_submission ON jobs (submitted_at, shard, job_no);
CREATE INDEX jobs_by_command ON jobs (shard, command_offset);
CREATE INDEX jobs_by_end ON jobs USING brin (ended_at) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE dependencies (
    shard integer NOT NULL,
    job_no bigint NOT NULL,
    needs_no bigint NOT NULL,
    must_succeed boolean NOT NULL,
    PRIMARY KEY (shard, job_no, needs_no)
);

CREATE TABLE attempts (
    shard integer NOT NULL,
    job_no bigint NOT NULL,
    attempt integer NOT NULL,
    placed_at timestamptz NOT NULL,
    failure text NOT NULL,
    started_at timestamptz,
    ended_at timestamptz,
    message text NOT NULL,
    PRIMARY KEY (shard, job_no, attempt)
) WITH (fillfactor = 50);

-- What agents reported of each task. What a lost node held has no end here: it ended with its node.
CREATE TABLE tasks (
    shard integer NOT NULL,
    job_no bigint NOT NULL,
    attempt integer NOT NULL,
    task integer NOT NULL,
    node_no bigint NOT NULL,
    placed_at timestamptz NOT NULL,
    failure text NOT NULL,
    devices smallint[] NOT NULL,
    ready_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    exit_code bigint,
    message text NOT NULL,
    PRIMARY KEY (shard, job_no, attempt, task)
) WITH (fillfactor = 50);

-- One row for each row of each event in the log but JobsForgotten, by month of its record's time.
-- What a kind does not speak of is 0 (job_no, attempt, node_no) or -1 (task).
CREATE TABLE events (
    shard integer NOT NULL,
    log_offset bigint NOT NULL,
    row_no integer NOT NULL,
    kind smallint NOT NULL,
    at timestamptz NOT NULL,
    job_no bigint NOT NULL,
    attempt integer NOT NULL,
    task integer NOT NULL,
    node_no bigint NOT NULL,
    detail jsonb
) PARTITION BY RANGE (at);

CREATE INDEX events_by_job ON events (shard, job_no);
CREATE INDEX events_by_time ON events USING brin (at) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE event_kinds (
    kind smallint PRIMARY KEY,
    name text NOT NULL UNIQUE
);

INSERT INTO event_kinds (kind, name) VALUES
    (1, 'JobsSubmitted'),
    (2, 'SubmissionsRepeated'),
    (3, 'CommandsRefused'),
    (4, 'CancelsRequested'),
    (5, 'QueueChanged'),
    (6, 'PoolChanged'),
    (7, 'NodeRegistered'),
    (8, 'NodesDraining'),
    (9, 'NodesLost'),
    (10, 'TasksPlaced'),
    (11, 'TasksReady'),
    (12, 'GangsReleased'),
    (13, 'TasksStarted'),
    (14, 'JobsStarted'),
    (15, 'TasksEnded'),
    (16, 'AttemptsEnding'),
    (17, 'ReportsRefused'),
    (18, 'JobsSucceeded'),
    (19, 'JobsFailed'),
    (20, 'RetriesScheduled'),
    (21, 'JobsRequeued'),
    (22, 'JobsDeadLettered'),
    (23, 'JobsCancelled');

-- What became of commands other than accepted submissions, which `jobs.command_offset` tells.
CREATE TABLE answers (
    shard integer NOT NULL,
    command_offset bigint NOT NULL,
    row_no integer NOT NULL,
    at timestamptz NOT NULL,
    outcome text NOT NULL,
    code text NOT NULL,
    job_no bigint,
    job_id uuid,
    message text NOT NULL
);

CREATE INDEX answers_by_command ON answers (shard, command_offset);

CREATE TABLE nodes (
    shard integer NOT NULL,
    node_no bigint NOT NULL,
    node text NOT NULL,
    pool text NOT NULL,
    incarnation bigint NOT NULL,
    address text NOT NULL,
    cpu_milli bigint NOT NULL,
    memory_mib bigint NOT NULL,
    gpus jsonb NOT NULL,
    extras jsonb NOT NULL,
    labels jsonb NOT NULL,
    lease_s bigint NOT NULL,
    registered_at timestamptz NOT NULL,
    draining_at timestamptz,
    drain_reason text NOT NULL DEFAULT '',
    lost_at timestamptz,
    lost_reason text NOT NULL DEFAULT '',
    PRIMARY KEY (shard, node_no)
);

CREATE INDEX nodes_by_name ON nodes (shard, node);

CREATE TABLE queues (
    shard integer NOT NULL,
    pool text NOT NULL,
    name text NOT NULL,
    state text NOT NULL,
    description text NOT NULL,
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (shard, pool, name)
);

CREATE TABLE pools (
    shard integer NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (shard, name)
);
