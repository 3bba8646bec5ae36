-- Version 7 of a fleet's tables: a table for each day, a head for each log.
--
-- The release before still ships and reads: its INSERTs reach the table of the day
-- by a trigger, and vitrail.event shows the days' tables as its own rows.  That is why
-- the days inherit: a partitioned table would want its key in the unique index that
-- the release before names (ON CONFLICT (log, sequence)).

-- The release before reads vitrail.migration alone: ``oldest`` is the oldest release that
-- works with a version, which ships and reads for as long as the fleet is updated.
CREATE TABLE vitrail.revision (
    version integer PRIMARY KEY,
    oldest integer NOT NULL,
    applied timestamptz NOT NULL DEFAULT now()
);
INSERT INTO vitrail.revision (version, oldest) VALUES (7, 6);

-- The views of fleet-views.sql are made again by that file.
DROP VIEW IF EXISTS vitrail_views.transfers, vitrail_views.streams,
    vitrail_views.decisions, vitrail_views.events;
DROP POLICY own ON vitrail.event;
DROP POLICY own ON vitrail.gap;
DROP POLICY own ON vitrail.checkpoint;
ALTER TABLE vitrail.log ALTER id TYPE bigint;
-- What is asked for, as a number: with row level security a reader's condition finds an
-- index by operators that are known not to leak, as equality of numbers is.
ALTER TABLE vitrail.event ALTER log TYPE bigint, ADD COLUMN object_hash bigint;
ALTER TABLE vitrail.gap ALTER log TYPE bigint;
ALTER TABLE vitrail.checkpoint ALTER log TYPE bigint;
ALTER TABLE vitrail.leaf ALTER log TYPE bigint;
CREATE INDEX log_owner ON vitrail.log (owner, first_seen);

CREATE TABLE vitrail.setting (
    name text PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO vitrail.setting VALUES ('new_logs_per_day', 1000);
CREATE TABLE vitrail.head (
    log bigint PRIMARY KEY REFERENCES vitrail.log,
    sequence bigint NOT NULL DEFAULT 0,
    leaf bytea NOT NULL DEFAULT '' CHECK (octet_length(leaf) <= 32),
    peaks bytea NOT NULL DEFAULT '' CHECK (octet_length(peaks) <= 2048),
    day date,
    heard timestamptz NOT NULL DEFAULT now(),
    counted bigint NOT NULL DEFAULT 0,
    bundle text NOT NULL DEFAULT '' CHECK (octet_length(bundle) <= 800),
    policy text NOT NULL DEFAULT '' CHECK (octet_length(policy) <= 800),
    loaded timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE vitrail.head IS 'the end of each log here: its tree, when it was last '
    'heard of, how far it is counted, the policy that it loaded last';
CREATE TABLE vitrail.frontier (
    log bigint NOT NULL REFERENCES vitrail.log,
    size bigint NOT NULL,
    peaks bytea NOT NULL CHECK (octet_length(peaks) <= 2048),
    day date NOT NULL,
    PRIMARY KEY (log, size)
);
COMMENT ON TABLE vitrail.frontier IS 'the left edge of a log''s tree where a day begins: '
    'the next checkpoint proves it, so the days before can be dropped';
-- value is cut: a key of this index has at most a third of a page.
CREATE TABLE vitrail.count (
    day date NOT NULL,
    log bigint NOT NULL,
    field text NOT NULL CHECK (octet_length(field) <= 32),
    value text NOT NULL CHECK (octet_length(value) <= 800),
    events bigint NOT NULL DEFAULT 0,
    denied bigint NOT NULL DEFAULT 0,
    refused numeric NOT NULL DEFAULT 0,
    streams bigint NOT NULL DEFAULT 0,
    sent numeric NOT NULL DEFAULT 0,
    got numeric NOT NULL DEFAULT 0,
    seconds numeric NOT NULL DEFAULT 0,
    first_ns bigint NOT NULL,
    last_ns bigint NOT NULL,
    PRIMARY KEY (day, log, field, value)
);
COMMENT ON TABLE vitrail.count IS 'events of each log up to head.counted, by day (UTC)';
CREATE TABLE vitrail.enrolled (
    machine text PRIMARY KEY CHECK (octet_length(machine) <= 1020),
    secret bytea CHECK (octet_length(secret) = 32),
    certificate text CHECK (octet_length(certificate) <= 1020),
    log bytea CHECK (octet_length(log) = 16),
    renew boolean NOT NULL DEFAULT true,
    revoked boolean NOT NULL DEFAULT false,
    since timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE vitrail.enrolled IS 'machines that the ingest service takes batches of';

INSERT INTO vitrail.head (log, sequence, leaf, heard)
    SELECT log.id, last.sequence, last.leaf, log.first_seen FROM vitrail.log,
        LATERAL (SELECT sequence, leaf FROM vitrail.event WHERE event.log = log.id
            ORDER BY sequence DESC LIMIT 1) AS last;
INSERT INTO vitrail.head (log) SELECT id FROM vitrail.log ON CONFLICT DO NOTHING;

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
    FOREACH name IN ARRAY ARRAY['head', 'frontier', 'count'] LOOP
        EXECUTE format('ALTER TABLE vitrail.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY reading ON vitrail.%I FOR SELECT '
            'USING ((SELECT vitrail.reads()))', name);
        EXECUTE format('CREATE POLICY own ON vitrail.%I FOR SELECT '
            'USING (log IN (SELECT id FROM vitrail.log WHERE owner = current_user))',
            name);
    END LOOP;
END $$;
-- Asked once for a question, and not for each row.
DO $$ DECLARE name text; BEGIN
    FOREACH name IN ARRAY ARRAY['log', 'event', 'gap', 'checkpoint', 'leaf'] LOOP
        EXECUTE format('ALTER POLICY reading ON vitrail.%I '
            'USING ((SELECT vitrail.reads()))', name);
    END LOOP;
END $$;
ALTER TABLE vitrail.enrolled ENABLE ROW LEVEL SECURITY;
ALTER TABLE vitrail.setting ENABLE ROW LEVEL SECURITY;
-- Whoever reads the events reads what belongs to them.
DO $$ DECLARE grantee text; BEGIN
    FOR grantee IN SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC'
            ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
        FROM pg_class, LATERAL aclexplode(relacl) AS acl
        WHERE oid = 'vitrail.event'::regclass AND privilege_type = 'SELECT'
            AND acl.grantee <> relowner
    LOOP
        EXECUTE 'GRANT SELECT ON vitrail.head, vitrail.frontier, vitrail.count, '
            'vitrail.revision TO '
            || grantee;
    END LOOP;
END $$;

-- Who calls, also inside of a function that has its owner's rights.
CREATE FUNCTION vitrail.caller() RETURNS name LANGUAGE sql STABLE AS $$
    SELECT CASE current_setting('role') WHEN 'none' THEN session_user
        ELSE current_setting('role')::name END
$$;
-- The ingest service limits each machine by itself.
CREATE FUNCTION vitrail.ingests(me name) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT pg_has_role(me, oid, 'USAGE') FROM pg_roles
        WHERE rolname = 'vitrail_ingest'), false)
$$;
CREATE FUNCTION vitrail.object_hash(body text) RETURNS bigint LANGUAGE sql IMMUTABLE
    PARALLEL SAFE AS $$
    SELECT CASE WHEN strpos(body, '"object":"') > 0 THEN hashtextextended(
        substring(body from '"object":"([^"\\]*(?:\\.[^"\\]*)*)"'), 0) END
$$;
UPDATE vitrail.event SET object_hash = vitrail.object_hash(body)
    WHERE strpos(body, '"object":"') > 0;
CREATE INDEX event_object ON vitrail.event (object_hash) WHERE object_hash IS NOT NULL;

-- The table of the day of this transaction; made by the first batch of the day.
CREATE FUNCTION vitrail.day_table() RETURNS name LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    name text := 'event_' || to_char(today, 'YYYYMMDD');
    begins bigint := extract(epoch FROM today)::bigint * 1000000000;
BEGIN
    IF to_regclass('vitrail.' || name) IS NOT NULL THEN
        RETURN name;
    END IF;
    -- A lock of the table, because only those make what others have made visible.
    LOCK TABLE vitrail.event IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass('vitrail.' || name) IS NOT NULL THEN
        RETURN name;
    END IF;
    -- An event is at most a minute later than its arrival in the order.
    EXECUTE format('CREATE TABLE vitrail.%I (CHECK (received_ns >= %s AND received_ns < '
        '%s AND place_ns < %s)) INHERITS (vitrail.event)', name, begins,
        begins + 86400000000000, begins + 86460000000000);
    -- guard: a day's table is read through the policies of the whole
    EXECUTE format('ALTER TABLE vitrail.%I ENABLE ROW LEVEL SECURITY', name);
    -- Rows are added and never changed, so pages of an index need no room.
    EXECUTE format('CREATE UNIQUE INDEX ON vitrail.%I (log, sequence) '
        'WITH (fillfactor = 100)', name);
    EXECUTE format('CREATE INDEX ON vitrail.%I (place_ns) WITH (fillfactor = 100)', name);
    EXECUTE format('CREATE INDEX ON vitrail.%I USING brin (received_ns)', name);
    EXECUTE format('CREATE INDEX ON vitrail.%I (kind)', name);
    EXECUTE format('CREATE INDEX ON vitrail.%I (sandbox) WHERE sandbox <> %L', name, '');
    EXECUTE format('CREATE INDEX ON vitrail.%I (rule) WHERE rule <> %L', name, '');
    EXECUTE format('CREATE INDEX ON vitrail.%I (place_ns) WHERE verdict = %L', name,
        'deny');
    EXECUTE format('CREATE INDEX ON vitrail.%I (object_hash) '
        'WHERE object_hash IS NOT NULL', name);
    EXECUTE format('CREATE INDEX ON vitrail.%I (place_ns) '
        'WHERE object_hash IS NOT NULL', name);
    RETURN name;
END $$;

-- The number of a log: looked up before one is drawn.
CREATE FUNCTION vitrail.log_number(me name, the_log bytea, the_machine text,
    the_broker text) RETURNS bigint LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE known record; fresh bigint;
BEGIN
    SELECT id, owner, machine INTO known FROM vitrail.log WHERE name = the_log;
    IF NOT FOUND THEN
        -- By role, whatever the machine calls itself.
        -- guard: new logs of a role are limited
        IF (SELECT count(*) FROM vitrail.log WHERE owner = me
                AND first_seen > now() - interval '1 day')
            >= (SELECT value FROM vitrail.setting WHERE name = 'new_logs_per_day')
                * (CASE WHEN vitrail.ingests(me) THEN 1000 ELSE 1 END)
            AND NOT pg_has_role(me, (SELECT relowner FROM pg_class
                WHERE oid = 'vitrail.event'::regclass), 'USAGE')
        THEN
            RAISE EXCEPTION 'the role % has begun too many logs today', me
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        INSERT INTO vitrail.log (name, machine, broker, owner)
            VALUES (the_log, the_machine, left(the_broker, 255), me)
            ON CONFLICT (name) DO NOTHING RETURNING id INTO fresh;
        IF fresh IS NOT NULL THEN
            INSERT INTO vitrail.head (log) VALUES (fresh);
            RETURN fresh;
        END IF;
        SELECT id, owner, machine INTO known FROM vitrail.log WHERE name = the_log;
    END IF;
    -- guard: a log is extended by the role that began it
    IF known.owner <> me THEN
        RAISE EXCEPTION 'the database has this log from another machine'
            USING ERRCODE = 'VT001', HINT = 'two roles of the database ship the same '
            'log; one of them is not this machine''s';
    END IF;
    RETURN known.id;
END $$;

-- What the database has of a log of the caller's.
CREATE FUNCTION vitrail.position_of(the_log bytea, OUT last bigint, OUT leaf bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT head.sequence, head.leaf FROM vitrail.head JOIN vitrail.log ON id = head.log
        WHERE name = the_log AND owner = vitrail.caller()
$$;

-- One batch: events without a gap between them, from ``first`` on, and checkpoints.
-- ``before`` and ``peaks`` are the tree's left edge before the first event and after the
-- last one.  They are believed by nobody: a checkpoint must follow from them.
CREATE FUNCTION vitrail.take(the_log bytea, the_machine text, the_broker text,
    first bigint, times bigint[], kinds text[], sandboxes text[], services text[],
    verdicts text[], rules text[], bodies text[], before bytea, edge bytea,
    sizes bigint[], note_kinds text[], notes text[]) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '30s' AS $$
DECLARE
    me name := vitrail.caller();
    number bigint;
    was vitrail.head;
    today date := (now() AT TIME ZONE 'UTC')::date;
    number_of_events integer := coalesce(array_length(bodies, 1), 0);
    last bigint := first + coalesce(array_length(bodies, 1), 0) - 1;
    place integer;
    newest text;
    newest_bundle text;
    newest_policy text;
BEGIN
    -- guard: who may not insert may not ship
    IF NOT has_table_privilege(me, 'vitrail.event', 'INSERT') THEN
        RAISE EXCEPTION 'permission denied for vitrail.event'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    number := vitrail.log_number(me, the_log, the_machine, the_broker);
    SELECT * INTO was FROM vitrail.head WHERE log = number FOR UPDATE;
    IF number_of_events > 0 AND first <= was.sequence THEN
        PERFORM vitrail.compare(number, first, bodies, was);
    END IF;
    IF number_of_events > 0 AND last > was.sequence THEN
        IF first > was.sequence + 1 THEN
            INSERT INTO vitrail.gap (log, first, last)
                VALUES (number, was.sequence + 1, first - 1) ON CONFLICT DO NOTHING;
        END IF;
        IF (was.day IS DISTINCT FROM today OR first > was.sequence + 1) THEN
            INSERT INTO vitrail.frontier VALUES (number,
                greatest(first - 1, was.sequence),
                CASE WHEN first <= was.sequence THEN was.peaks ELSE before END, today)
                ON CONFLICT DO NOTHING;
        END IF;
        EXECUTE format('INSERT INTO vitrail.%I (log, sequence, time_ns, kind, sandbox, '
            'lease, service, verdict, rule, peer, outcome, boot, body, leaf, '
            'object_hash) '
            'SELECT $1, $2 + place - 1, time_ns, kind, sandbox, %L, service, verdict, '
            'rule, %L, %L, %L, body, sha256(%L::bytea || convert_to(body, %L)), '
            'vitrail.object_hash(body) '
            'FROM unnest($3, $4, $5, $6, $7, $8, $9) WITH ORDINALITY AS '
            'arriving (time_ns, kind, sandbox, service, verdict, rule, body, place) '
            'WHERE $2 + place - 1 > $10', vitrail.day_table(), '', '', '', '', '\x00',
            'UTF8')
            USING number, first, times, kinds, sandboxes, services, verdicts, rules,
                bodies, was.sequence;
        -- Records are loaded, too; rules name the bundle and are the policy.
        SELECT max(n) INTO place FROM unnest(kinds, bodies) WITH ORDINALITY
            AS one (kind, body, n)
            WHERE kind = 'policy.loaded' AND body LIKE '%"what":"rules"%';
        newest_bundle := was.bundle;
        newest_policy := was.policy;
        IF place IS NOT NULL THEN
            newest := bodies[place];
            newest_bundle := left(vitrail.text_of(newest, 'bundle'), 200);
            newest_policy := left(vitrail.text_of(newest, 'policy'), 200);
        END IF;
        UPDATE vitrail.head SET sequence = last,
            leaf = sha256('\x00'::bytea || convert_to(bodies[number_of_events], 'UTF8')),
            peaks = edge, day = today, heard = now(),
            -- A broker that starts again loads what was in force: not a new bundle.
            bundle = newest_bundle, policy = newest_policy,
            loaded = CASE WHEN newest IS NULL OR (was.loaded IS NOT NULL
                AND newest_bundle = was.bundle AND newest_policy = was.policy)
                THEN was.loaded
                -- By the machine's clock, which may be wrong.
                ELSE greatest(now() - interval '1 day', least(now(),
                    to_timestamp(times[place] / 1e9))) END
            WHERE log = number;
    ELSE
        UPDATE vitrail.head SET heard = now() WHERE log = number;
    END IF;
    INSERT INTO vitrail.checkpoint (log, size, kind, note)
        SELECT number, size, kind, note FROM unnest(sizes, note_kinds, notes)
            AS arriving (size, kind, note) ON CONFLICT DO NOTHING;
    SELECT min(size) INTO last FROM unnest(sizes, note_kinds, notes)
        AS arriving (size, kind, note) JOIN vitrail.checkpoint there USING (size, kind)
        WHERE there.log = number AND there.note <> arriving.note;
    IF last IS NOT NULL THEN
        RAISE EXCEPTION 'the database has another checkpoint of this log at %', last
            USING ERRCODE = 'VT001', HINT = 'this log was rolled back after it was '
            'shipped: ''brokerctl audit checkpoint --store'' prints those there, for '
            '''verify --against''';
    END IF;
END $$;

-- A batch that came before is the same, as far as it is still here.
CREATE FUNCTION vitrail.compare(number bigint, first bigint, bodies text[],
    was vitrail.head) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE other bigint;
BEGIN
    SELECT min(there.sequence) INTO other FROM vitrail.event there
        WHERE there.log = number AND there.sequence >= first
            AND there.sequence < first + array_length(bodies, 1)
            AND there.leaf <> sha256('\x00'::bytea
                || convert_to(bodies[there.sequence - first + 1], 'UTF8'));
    IF other IS NULL AND was.sequence < first + array_length(bodies, 1)
        AND was.leaf <> sha256('\x00'::bytea
            || convert_to(bodies[was.sequence - first + 1], 'UTF8'))
    THEN
        other := was.sequence;
    END IF;
    IF other IS NOT NULL THEN
        RAISE EXCEPTION 'the database has another event % of this log', other
            USING ERRCODE = 'VT001', HINT = 'this log was changed or rolled back after '
            'it was shipped: ''brokerctl audit verify'', and compare with --store';
    END IF;
END $$;

-- The release before inserts into vitrail.event: row for row into the day's table.
CREATE FUNCTION vitrail.take_row() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE was vitrail.head; me name := vitrail.caller();
BEGIN
    -- guard: a log is extended by the role that began it, row by row
    IF NOT EXISTS (SELECT FROM vitrail.log WHERE id = NEW.log AND owner = me) THEN
        RAISE EXCEPTION 'new row violates row-level security policy'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NEW.received_ns <> vitrail.now_ns() THEN
        RAISE EXCEPTION 'an event arrives when it arrives'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO vitrail.head (log) VALUES (NEW.log) ON CONFLICT DO NOTHING;
    SELECT * INTO was FROM vitrail.head WHERE log = NEW.log FOR UPDATE;
    IF NEW.sequence <= was.sequence THEN
        PERFORM vitrail.compare(NEW.log, NEW.sequence, ARRAY[NEW.body], was);
        RETURN NULL;
    END IF;
    EXECUTE format('INSERT INTO vitrail.%I (log, sequence, time_ns, kind, sandbox, '
        'lease, service, verdict, rule, peer, outcome, boot, body, leaf, object_hash) '
        'SELECT $1.log, $1.sequence, $1.time_ns, $1.kind, $1.sandbox, $1.lease, '
        '$1.service, $1.verdict, $1.rule, $1.peer, $1.outcome, $1.boot, $1.body, '
        '$1.leaf, vitrail.object_hash($1.body)',
        vitrail.day_table()) USING NEW;
    -- Its tree is not known any more, until a shipper of this release says it.
    UPDATE vitrail.head SET sequence = NEW.sequence, leaf = NEW.leaf, peaks = '',
        day = (now() AT TIME ZONE 'UTC')::date, heard = now() WHERE log = NEW.log;
    RETURN NULL;
END $$;
CREATE TRIGGER take_row BEFORE INSERT ON vitrail.event
    FOR EACH ROW EXECUTE FUNCTION vitrail.take_row();

-- Count what came since the last call; returns the number of events.
CREATE FUNCTION vitrail.count_events() RETURNS bigint LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE done bigint; next_part bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1448362563);
    -- Some logs at a time, so that they are grouped in memory.
    CREATE TEMPORARY TABLE counting ON COMMIT DROP AS
        SELECT log, counted, sequence AS upto,
            (sum(sequence - counted) OVER (ORDER BY log) / 100000)::bigint AS part
        FROM vitrail.head WHERE sequence > counted;
    FOR next_part IN SELECT DISTINCT part FROM pg_temp.counting ORDER BY 1 LOOP
        INSERT INTO vitrail.count AS there (day, log, field, value, events, denied,
                refused, streams, sent, got, seconds, first_ns, last_ns)
            SELECT counts.* FROM (
                SELECT array_agg(log ORDER BY log) AS logs,
                    array_agg(counted ORDER BY log) AS after,
                    array_agg(upto ORDER BY log) AS upto
                FROM pg_temp.counting WHERE part = next_part) AS these,
                LATERAL vitrail.counts_of(logs, after, upto, NULL, NULL) AS counts
            ON CONFLICT (day, log, field, value) DO UPDATE SET
                events = there.events + excluded.events,
                denied = there.denied + excluded.denied,
                refused = there.refused + excluded.refused,
                streams = there.streams + excluded.streams,
                sent = there.sent + excluded.sent, got = there.got + excluded.got,
                seconds = there.seconds + excluded.seconds,
                first_ns = least(there.first_ns, excluded.first_ns),
                last_ns = greatest(there.last_ns, excluded.last_ns);
    END LOOP;
    UPDATE vitrail.head SET counted = upto FROM pg_temp.counting
        WHERE counting.log = head.log;
    SELECT coalesce(sum(upto - counted), 0) INTO done FROM pg_temp.counting;
    DROP TABLE pg_temp.counting;
    RETURN done;
END $$;

-- A regular expression over a whole body takes ten times as long as a look for the name.
CREATE FUNCTION vitrail.number_of(body text, field text) RETURNS numeric
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT substring(split_part(split_part(body, '"' || field || '":', 2), ',', 1)
        from '^(\d{1,18}(?:\.\d{1,20})?(?:[eE]-?\d{1,2})?)(?:\}|$)')::numeric
$$;
CREATE FUNCTION vitrail.text_of(body text, field text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN strpos(body, '\') = 0
        THEN split_part(split_part(body, '"' || field || '":"', 2), '"', 1)
        ELSE coalesce(substring(body from '"' || field
            || '":"([^"\\]*(?:\\.[^"\\]*)*)"'), '') END
$$;

-- The counts of parts of logs: of each field its values, by day.
CREATE FUNCTION vitrail.counts_of(logs bigint[], after bigint[], upto bigint[],
    since_ns bigint, until_ns bigint)
    RETURNS TABLE (day date, log bigint, field text, value text, events bigint,
        denied bigint, refused numeric, streams bigint, sent numeric, got numeric,
        seconds numeric, first_ns bigint, last_ns bigint)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH grouped AS MATERIALIZED (
        SELECT ((to_timestamp(event.place_ns / 1000000000) AT TIME ZONE 'UTC')::date)
                AS day, event.log, kind, verdict, left(sandbox, 200) AS sandbox,
            left(service, 200) AS service, left(rule, 200) AS rule,
            left(vitrail.text_of(body, 'peer'), 200) AS peer,
            left(vitrail.text_of(body, 'outcome'), 200) AS outcome,
            count(*) AS events,
            sum(CASE WHEN kind IN ('stream.refused', 'lease.refused', 'link.refused')
                THEN coalesce(vitrail.number_of(body, 'count'), 1) ELSE 0 END) AS refused,
            sum(CASE WHEN kind = 'stream.closed' THEN 1 ELSE 0 END) AS streams,
            sum(CASE WHEN kind = 'stream.closed' THEN coalesce(
                vitrail.number_of(body, 'bytes_from_sandbox'), 0) ELSE 0 END) AS sent,
            sum(CASE WHEN kind = 'stream.closed' THEN coalesce(
                vitrail.number_of(body, 'bytes_to_sandbox'), 0) ELSE 0 END) AS got,
            sum(CASE WHEN kind = 'stream.closed' THEN coalesce(
                vitrail.number_of(body, 'seconds'), 0) ELSE 0 END) AS seconds,
            min(event.place_ns) AS first_ns, max(event.place_ns) AS last_ns
        FROM unnest(logs, after, upto) AS span (log, after, upto)
            JOIN vitrail.event ON event.log = span.log
                AND event.sequence > span.after AND event.sequence <= span.upto
        WHERE (since_ns IS NULL OR event.place_ns >= since_ns)
            AND (until_ns IS NULL OR event.place_ns <= until_ns)
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
    )
    SELECT day, log, one.field, one.value, sum(events)::bigint,
        sum(CASE WHEN verdict = 'deny' THEN events ELSE 0 END)::bigint, sum(refused),
        sum(streams)::bigint, sum(sent), sum(got), sum(seconds), min(first_ns),
        max(last_ns)
    FROM grouped, LATERAL (VALUES ('', ''), ('kind', left(kind, 200)),
        ('verdict', left(verdict, 200)), ('sandbox', sandbox), ('service', service),
        ('rule', rule), ('peer', peer), ('outcome', outcome)) AS one (field, value)
    WHERE one.value <> '' OR one.field IN ('', 'sandbox')
    GROUP BY 1, 2, 3, 4
$$;

-- Drop the days before a date, of those logs whose next day can be proved; returns
-- how many tables went.
CREATE FUNCTION vitrail.drop_days(before date) RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
DECLARE name text; done integer := 0;
BEGIN
    FOR name IN SELECT relname FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid
        WHERE inhparent = 'vitrail.event'::regclass AND relname ~ '^event_\d{8}$'
            AND relname < 'event_' || to_char(before, 'YYYYMMDD') ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE vitrail.%I', name);
        done := done + 1;
    END LOOP;
    DELETE FROM vitrail.count WHERE day < before;
    RETURN done;
END $$;
-- Of the checkpoints, those of an hour ago and more: the last of each hour, all of keys.
CREATE FUNCTION vitrail.thin_checkpoints() RETURNS bigint LANGUAGE sql
    SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM vitrail.checkpoint old WHERE kind = 'kept'
            AND arrived < date_trunc('hour', now() - interval '1 day')
            AND EXISTS (SELECT FROM vitrail.checkpoint later WHERE later.log = old.log
                AND later.kind = 'kept' AND later.size > old.size
                AND date_trunc('hour', later.arrived) = date_trunc('hour', old.arrived))
        RETURNING 1)
    SELECT count(*) FROM gone
$$;
REVOKE EXECUTE ON FUNCTION vitrail.count_events(), vitrail.drop_days(date),
    vitrail.thin_checkpoints() FROM PUBLIC;
