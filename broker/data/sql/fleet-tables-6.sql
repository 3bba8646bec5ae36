-- Version 6 of a fleet's tables, the oldest that is brought up to date.
--
-- ``log`` has one row for each log that was ever shipped here, ``event`` the events with
-- the columns that are asked for most, ``gap`` what a log had lost before it could be
-- shipped, ``checkpoint`` what the logs have signed of themselves, ``leaf`` hashes of
-- events that were removed.  A machine's role may be anybody's: what it may put into a
-- row is bounded by checks and by policies.

CREATE SCHEMA IF NOT EXISTS vitrail;
CREATE TABLE IF NOT EXISTS vitrail.migration (
    version integer PRIMARY KEY,
    applied timestamptz NOT NULL DEFAULT now()
);
INSERT INTO vitrail.migration VALUES (6);

CREATE FUNCTION vitrail.reads() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles
                     WHERE rolname = 'vitrail_reader'), false)
$$;
CREATE FUNCTION vitrail.now_ns() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT (extract(epoch FROM now()) * 1000000000)::bigint
$$;

CREATE TABLE vitrail.log (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name bytea NOT NULL UNIQUE CHECK (octet_length(name) = 16),
    machine text NOT NULL,
    broker text NOT NULL DEFAULT '',
    owner name NOT NULL DEFAULT current_user,
    first_seen timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sizes CHECK (octet_length(machine) <= 1020 AND octet_length(broker) <= 1020)
);
COMMENT ON TABLE vitrail.log IS 'one row for each audit log that is shipped here';

-- ``received_ns`` is the time of the transaction that brought an event; ``place_ns`` is
-- where it stands in the order: no more than a minute later.
-- The sizes are AUDIT_EVENT_BYTES and AUDIT_NOTE_BYTES.
CREATE TABLE vitrail.event (
    log integer NOT NULL REFERENCES vitrail.log,
    sequence bigint NOT NULL CHECK (sequence > 0),
    time_ns bigint NOT NULL,
    kind text NOT NULL,
    sandbox text NOT NULL,
    lease text NOT NULL,
    service text NOT NULL,
    verdict text NOT NULL,
    rule text NOT NULL,
    peer text NOT NULL,
    outcome text NOT NULL,
    boot text NOT NULL,
    body text NOT NULL,
    leaf bytea NOT NULL,
    received_ns bigint NOT NULL DEFAULT vitrail.now_ns(),
    place_ns bigint NOT NULL GENERATED ALWAYS AS (CASE
        WHEN time_ns > received_ns + 60000000000 THEN received_ns
        ELSE time_ns END) STORED,
    PRIMARY KEY (log, sequence),
    CONSTRAINT sizes CHECK (octet_length(body) <= 65536 AND octet_length(leaf) <= 32 AND
        octet_length(kind || sandbox || lease || service || verdict || rule || peer
            || outcome || boot) <= 65536)
);
COMMENT ON TABLE vitrail.event IS 'events; body is the JSON as it was recorded';
CREATE INDEX event_place ON vitrail.event (place_ns, log, sequence);
CREATE INDEX event_kind ON vitrail.event (kind, place_ns);
DO $$ DECLARE field text; BEGIN
    FOREACH field IN ARRAY ARRAY['sandbox', 'lease', 'service', 'verdict', 'rule', 'peer',
        'outcome']
    LOOP
        EXECUTE format('CREATE INDEX %I ON vitrail.event (%I, place_ns) WHERE %I <> %L',
            'event_' || field, field, field, '');
    END LOOP;
END $$;

CREATE TABLE vitrail.gap (
    log integer NOT NULL REFERENCES vitrail.log,
    first bigint NOT NULL,
    last bigint NOT NULL,
    noted timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log, first)
);
COMMENT ON TABLE vitrail.gap IS 'events that were lost before they were shipped';
CREATE TABLE vitrail.checkpoint (
    log integer NOT NULL REFERENCES vitrail.log,
    size bigint NOT NULL,
    kind text NOT NULL,
    note text NOT NULL,
    arrived timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log, size, kind),
    CONSTRAINT sizes CHECK (octet_length(note) <= 4096 AND octet_length(kind) <= 256)
);
COMMENT ON TABLE vitrail.checkpoint IS 'what the logs have signed of themselves';
-- Without the hashes no root of the log can be computed any more, and whoever changes
-- the store would remove one event.
CREATE TABLE vitrail.leaf (
    log integer NOT NULL REFERENCES vitrail.log,
    sequence bigint NOT NULL,
    leaf bytea NOT NULL CHECK (octet_length(leaf) = 32),
    PRIMARY KEY (log, sequence)
);
COMMENT ON TABLE vitrail.leaf IS 'hashes of events that the owner has removed';

-- A machine that was taken over adds to its own logs only: what another role has begun it
-- neither sees nor extends.  Readers are members of vitrail_reader, which a database's
-- owner may make.
CREATE POLICY own ON vitrail.log
    USING (owner = current_user) WITH CHECK (owner = current_user);
CREATE POLICY own ON vitrail.event
    USING (log IN (SELECT id FROM vitrail.log WHERE owner = current_user))
    WITH CHECK (log IN (SELECT id FROM vitrail.log WHERE owner = current_user)
        AND received_ns = vitrail.now_ns());
DO $$ DECLARE name text; BEGIN
    FOREACH name IN ARRAY ARRAY['gap', 'checkpoint'] LOOP
        EXECUTE format('CREATE POLICY own ON vitrail.%I '
            'USING (log IN (SELECT id FROM vitrail.log WHERE owner = current_user)) '
            'WITH CHECK (log IN (SELECT id FROM vitrail.log WHERE owner = current_user))',
            name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['log', 'event', 'gap', 'checkpoint', 'leaf'] LOOP
        EXECUTE format('ALTER TABLE vitrail.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY reading ON vitrail.%I FOR SELECT '
            'USING (vitrail.reads())', name);
    END LOOP;
END $$;
DO $$ BEGIN
    GRANT SELECT ON vitrail.leaf TO vitrail_reader;
EXCEPTION WHEN undefined_object THEN NULL;  -- the role is made later
END $$;

-- The role that ships first under a machine's name has that name.
CREATE TABLE vitrail.machine (
    name text PRIMARY KEY CHECK (octet_length(name) <= 1020),
    owner name NOT NULL
);
ALTER TABLE vitrail.machine ENABLE ROW LEVEL SECURITY;
CREATE FUNCTION vitrail.take_name() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO vitrail.machine VALUES (NEW.machine, NEW.owner)
        ON CONFLICT DO NOTHING;
    IF NEW.owner <> (SELECT owner FROM vitrail.machine WHERE name = NEW.machine)
    THEN
        RAISE EXCEPTION 'another role ships under the name %', NEW.machine
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER take_name BEFORE INSERT ON vitrail.log
    FOR EACH ROW EXECUTE FUNCTION vitrail.take_name();
