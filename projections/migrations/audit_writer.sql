-- Run on every connection of the audit view's writer: where the new values of rows that change are
-- gathered, one UPDATE a table. Emptied by every commit.

CREATE TEMPORARY TABLE changed_jobs (
    shard integer,
    job_no bigint,
    attempt integer,
    retries_used integer,
    changed_at timestamptz,
    state text,
    failure text,
    due_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    message text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE changed_attempts (
    shard integer,
    job_no bigint,
    attempt integer,
    failure text,
    started_at timestamptz,
    ended_at timestamptz,
    message text,
    fingerprint text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE changed_tasks (
    shard integer,
    job_no bigint,
    attempt integer,
    task integer,
    failure text,
    ready_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    exit_code bigint,
    message text,
    log_tail text
) ON COMMIT DELETE ROWS;
