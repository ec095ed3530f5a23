-- One row per call, without any text of it. The id is made where the call was, so that a row shipped twice counts once.
CREATE TABLE promptsmith_ledger (
    id bytea PRIMARY KEY,
    machine text NOT NULL,
    ended timestamptz NOT NULL,
    task text NOT NULL,
    prompt text NOT NULL,
    stage text NOT NULL,
    model text NOT NULL,
    endpoint text NOT NULL,
    input bigint NOT NULL,
    output bigint NOT NULL,
    cached bigint NOT NULL,
    written bigint NOT NULL,
    reasoning bigint NOT NULL,
    cost double precision,
    latency double precision NOT NULL,
    attempts integer NOT NULL,
    source text NOT NULL,
    status text NOT NULL
);
CREATE INDEX promptsmith_ledger_by_time ON promptsmith_ledger (ended);
