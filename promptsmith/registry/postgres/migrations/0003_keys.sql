-- The keys that the service lets in: digests only. A change wakes who listens, as a move does.
CREATE TABLE promptsmith_keys (
    digest text PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    name text NOT NULL,
    revoked boolean NOT NULL DEFAULT false,
    number bigint GENERATED ALWAYS AS IDENTITY,
    body bytea NOT NULL
);
CREATE UNIQUE INDEX promptsmith_keys_in_force ON promptsmith_keys (name) WHERE NOT revoked;

CREATE FUNCTION promptsmith_keys_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('promptsmith', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER promptsmith_keys_changed AFTER INSERT OR UPDATE OR DELETE ON promptsmith_keys
    FOR EACH STATEMENT EXECUTE FUNCTION promptsmith_keys_changed();
