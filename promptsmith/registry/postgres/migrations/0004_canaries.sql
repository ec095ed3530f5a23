-- Canaries of all machines, and what became of their calls, in one order for everybody.
CREATE TABLE promptsmith_canaries (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    number bigint GENERATED ALWAYS AS IDENTITY,
    task text NOT NULL REFERENCES promptsmith_tasks,
    alias text NOT NULL,
    candidate text NOT NULL,
    ended boolean NOT NULL DEFAULT false,
    body bytea NOT NULL
);
CREATE UNIQUE INDEX promptsmith_canaries_active ON promptsmith_canaries (task, alias) WHERE NOT ended;

-- Whoever adds outcomes of a canary holds its row, so that their numbers come in the order in which they are seen.
CREATE TABLE promptsmith_outcomes (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    canary text NOT NULL REFERENCES promptsmith_canaries ON DELETE CASCADE,
    outcome text NOT NULL
);
CREATE INDEX promptsmith_outcomes_of_canary ON promptsmith_outcomes (canary, number);

-- The task's version too: as long as a canary runs, its candidate is at hand like a prompt under an alias.
CREATE TRIGGER promptsmith_canaries_changed AFTER INSERT OR UPDATE OR DELETE ON promptsmith_canaries
    FOR EACH ROW EXECUTE FUNCTION promptsmith_changed();
