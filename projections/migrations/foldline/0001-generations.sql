-- The pointer: which generation of a view its readers see. Made in the schema `foldline`.
-- Exactly one generation of a view is live; a building one is not complete, an old one is kept for
-- rolling back. Each has its tables in a schema of its own, named <view>_g<number>.

CREATE TABLE generations (
    view text NOT NULL,
    number integer NOT NULL,
    state text NOT NULL CHECK (state IN ('building', 'live', 'old')),
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (view, number)
);

CREATE UNIQUE INDEX generations_one_live ON generations (view) WHERE state = 'live';

-- Numbers are never used again, so that nobody writes into a later generation by mistake.
CREATE SEQUENCE generation_numbers;
