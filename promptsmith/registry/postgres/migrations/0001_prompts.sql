-- What people and models wrote (prompts, reasons, names) is kept as bytes of JSON: a text of PostgreSQL holds no NUL.
-- Ids, aliases and tasks are plain texts, to be looked at with SQL.

CREATE TABLE promptsmith_tasks (
    name text PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0
);

CREATE TABLE promptsmith_prompts (
    task text NOT NULL REFERENCES promptsmith_tasks,
    id text NOT NULL CHECK (id ~ '^[0-9a-f]{64}$'),
    body bytea NOT NULL,
    added timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task, id)
);
CREATE INDEX promptsmith_prompts_by_id ON promptsmith_prompts (id);

CREATE TABLE promptsmith_aliases (
    task text NOT NULL REFERENCES promptsmith_tasks,
    alias text NOT NULL CHECK (alias ~ '^[a-z0-9_-]{1,64}$'),
    prompt text NOT NULL,
    PRIMARY KEY (task, alias),
    FOREIGN KEY (task, prompt) REFERENCES promptsmith_prompts (task, id)
);

CREATE TABLE promptsmith_moves (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task text NOT NULL REFERENCES promptsmith_tasks,
    alias text NOT NULL,
    from_prompt text,
    to_prompt text,
    made timestamptz NOT NULL DEFAULT now(),
    body bytea NOT NULL
);
CREATE INDEX promptsmith_moves_of_task ON promptsmith_moves (task, number);

CREATE TABLE promptsmith_receipts (
    task text NOT NULL REFERENCES promptsmith_tasks,
    prompt text NOT NULL,
    digest text NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (task, prompt)
);

-- Every change raises the version of its task and wakes who listens, also one made by hand with SQL.
CREATE FUNCTION promptsmith_changed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE promptsmith_tasks SET version = version + 1 WHERE name = OLD.task;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        UPDATE promptsmith_tasks SET version = version + 1 WHERE name = NEW.task;
    END IF;
    PERFORM pg_notify('promptsmith', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER promptsmith_prompts_changed AFTER INSERT OR UPDATE OR DELETE ON promptsmith_prompts
    FOR EACH ROW EXECUTE FUNCTION promptsmith_changed();
CREATE TRIGGER promptsmith_aliases_changed AFTER INSERT OR UPDATE OR DELETE ON promptsmith_aliases
    FOR EACH ROW EXECUTE FUNCTION promptsmith_changed();
CREATE TRIGGER promptsmith_moves_changed AFTER INSERT OR UPDATE OR DELETE ON promptsmith_moves
    FOR EACH ROW EXECUTE FUNCTION promptsmith_changed();
CREATE TRIGGER promptsmith_receipts_changed AFTER INSERT OR UPDATE OR DELETE ON promptsmith_receipts
    FOR EACH ROW EXECUTE FUNCTION promptsmith_changed();
