-- What readers see: the schema `foldline`, bound to the tables of the generation that is live. Run
-- with that generation's schema as the search path, in the transaction that makes it live.
-- Columns are only ever added, at the end: others build on these views.

CREATE OR REPLACE VIEW foldline.positions AS
SELECT shard, next_offset, epoch, owner, seq, value, at, commands, reports FROM positions;

CREATE OR REPLACE VIEW foldline.jobs AS
SELECT
    shard, job_no, job_id, tenant, pool, queue, job_type, name, state, priority, attempt,
    retries_used, submitted_at, changed_at, due_at, started_at, ended_at, failure, message, actor,
    tasks, min_members, topology, cpu_milli, memory_mib, gpu_milli,
    coalesce(extras, '[]') AS extras,
    coalesce(gpu_models, '[]') AS gpu_models,
    coalesce(node_selector, '[]') AS node_selector,
    timeout_s, start_timeout_s, grace_s, max_retries, backoff_s, backoff_multiplier_milli,
    backoff_max_s, defaults_version, command_offset, key_id, spec_schema_id, spec,
    progress_timeout_s, deadline_s, memory_growth_milli, memory_max_mib,
    coalesce(retry_rules, '[]') AS retry_rules,
    spec_hash, causation_id, redrives
FROM jobs;

CREATE OR REPLACE VIEW foldline.dependencies AS
SELECT d.shard, d.job_no, d.needs_no, d.must_succeed, j.job_id, n.job_id AS needs_id
FROM dependencies AS d
JOIN jobs AS j ON (j.shard, j.job_no) = (d.shard, d.job_no)
JOIN jobs AS n ON (n.shard, n.job_no) = (d.shard, d.needs_no);

CREATE OR REPLACE VIEW foldline.attempts AS
SELECT shard, job_no, attempt, placed_at, started_at, ended_at, failure, message,
    fingerprint
FROM attempts;

CREATE OR REPLACE VIEW foldline.tasks AS
SELECT
    t.shard, t.job_no, t.attempt, t.task, t.node_no, n.node, n.incarnation, t.devices, t.placed_at,
    t.ready_at, t.started_at,
    coalesce(t.ended_at, n.lost_at) AS ended_at,
    t.exit_code,
    CASE WHEN t.ended_at IS NULL AND n.lost_at IS NOT NULL THEN 'node_lost' ELSE t.failure END
        AS failure,
    CASE WHEN t.ended_at IS NULL AND n.lost_at IS NOT NULL
        THEN 'node ' || n.node || ' was lost: ' || n.lost_reason ELSE t.message END AS message,
    t.log_tail
FROM tasks AS t
JOIN nodes AS n ON (n.shard, n.node_no) = (t.shard, t.node_no);

CREATE OR REPLACE VIEW foldline.events AS
SELECT
    e.shard, e.log_offset, e.row_no, k.name AS kind, e.at,
    nullif(e.job_no, 0) AS job_no,
    nullif(e.attempt, 0) AS attempt,
    nullif(e.task, -1) AS task,
    nullif(e.node_no, 0) AS node_no,
    e.detail
FROM events AS e
JOIN event_kinds AS k ON k.kind = e.kind;

CREATE OR REPLACE VIEW foldline.commands AS
SELECT
    a.shard, a.command_offset, nullif(a.row_no, -1) AS row_no, a.at, a.outcome, a.code, a.message, a.job_no,
    coalesce(a.job_id, j.job_id) AS job_id
FROM answers AS a
LEFT JOIN jobs AS j ON (j.shard, j.job_no) = (a.shard, a.job_no)
UNION ALL
SELECT
    shard, command_offset, NULL::integer, submitted_at, 'accepted', '', '', job_no, job_id
FROM jobs;

CREATE OR REPLACE VIEW foldline.nodes AS
SELECT
    shard, node_no, node, pool, incarnation, address, cpu_milli, memory_mib, gpus, extras, labels,
    lease_s, registered_at, draining_at, drain_reason, lost_at, lost_reason
FROM nodes;

CREATE OR REPLACE VIEW foldline.queues AS
SELECT
    shard, pool, name, state, description, actor, created_at, changed_at, defaults, retries_per_hour
FROM queues;

CREATE OR REPLACE VIEW foldline.pools AS
SELECT
    shard, name, description, actor, created_at, changed_at, retries_on, tenant_retries_per_hour
FROM pools;

CREATE OR REPLACE VIEW foldline.dead_letters AS
SELECT
    l.shard, l.letter_id, nullif(l.job_no, 0) AS job_no,
    CASE WHEN l.job_no = 0 THEN 'input' ELSE 'job' END AS kind,
    l.state, l.at, l.attempts, l.failure, l.fingerprint, l.tenant, l.pool, l.queue, l.job_type,
    l.name, l.message, l.log_tail, l.redriven_at, l.redriven_by, l.purged_at, l.purged_by,
    l.purge_reason, coalesce(l.history, '[]') AS history, l.terms, l.input,
    coalesce(l.headers, '[]') AS headers, l.sha256, l.key, l.value,
    j.priority, j.key_id, j.spec_schema_id, j.spec, j.actor, j.causation_id, j.redrives
FROM dead_letters AS l
LEFT JOIN jobs AS j ON (j.shard, j.job_no) = (l.shard, l.job_no);
