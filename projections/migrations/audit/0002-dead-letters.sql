-- Dead letters, what they need of jobs and attempts, and the settings of queues and pools that say
-- how often things are tried again. -1 is what an event of before these terms says of them.

ALTER TABLE jobs
    ADD COLUMN progress_timeout_s bigint NOT NULL DEFAULT -1,
    ADD COLUMN deadline_s bigint NOT NULL DEFAULT -1,
    ADD COLUMN memory_growth_milli bigint NOT NULL DEFAULT -1,
    ADD COLUMN memory_max_mib bigint NOT NULL DEFAULT -1,
    ADD COLUMN retry_rules jsonb,
    ADD COLUMN spec_hash bytea NOT NULL DEFAULT '',
    ADD COLUMN causation_id text NOT NULL DEFAULT '',
    ADD COLUMN redrives uuid;

-- A key is free again once its job has left the fold: then a job of the same id follows it.
DROP INDEX jobs_by_id;
CREATE INDEX jobs_by_id ON jobs (job_id, job_no);

ALTER TABLE attempts ADD COLUMN fingerprint text NOT NULL DEFAULT '';
ALTER TABLE tasks ADD COLUMN log_tail text NOT NULL DEFAULT '';

ALTER TABLE queues
    ADD COLUMN defaults jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN retries_per_hour bigint NOT NULL DEFAULT 0;
ALTER TABLE pools
    ADD COLUMN retries_on boolean NOT NULL DEFAULT true,
    ADD COLUMN tenant_retries_per_hour bigint NOT NULL DEFAULT 0;

-- One row for each job whose retries were spent (letter_id is the job's id) and for each input that
-- nobody could read (letter_id is shard:input:offset, job_no 0). `terms` are those of the last
-- attempt; `input` says of a parked one which input, offset, code, size and when it was taken.
CREATE TABLE dead_letters (
    shard integer NOT NULL,
    letter_id text NOT NULL,
    job_no bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'redriven', 'purged')),
    at timestamptz NOT NULL,
    attempts integer NOT NULL,
    failure text NOT NULL,
    fingerprint text NOT NULL,
    tenant text NOT NULL,
    pool text NOT NULL,
    queue text NOT NULL,
    job_type text NOT NULL,
    name text NOT NULL,
    message text NOT NULL,
    log_tail text NOT NULL,
    redriven_at timestamptz,
    redriven_by uuid,
    purged_at timestamptz,
    purged_by text NOT NULL,
    purge_reason text NOT NULL,
    history jsonb,
    terms jsonb,
    input jsonb,
    headers jsonb,
    sha256 bytea NOT NULL,
    key bytea NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (shard, letter_id, job_no)
);

CREATE INDEX dead_letters_by_id ON dead_letters (letter_id);
CREATE INDEX dead_letters_by_time ON dead_letters (at, shard, letter_id);
CREATE INDEX dead_letters_open ON dead_letters (fingerprint, at) WHERE state = 'open';

INSERT INTO event_kinds (kind, name) VALUES
    (24, 'InputsParked'),
    (25, 'DeadLettersPurged'),
    (26, 'DeadlinesPassed');
