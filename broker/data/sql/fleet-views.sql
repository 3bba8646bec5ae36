-- Views of a fleet's database for questions in SQL: docs/audit.md, "Questions in SQL".
--
-- The owner of the schema vitrail runs this, again after each update of the tables:
--     psql ADDRESS -v ON_ERROR_STOP=1 -f fleet-views.sql
-- They are in a schema of their own, because a machine's role may be given SELECT on
-- all tables in vitrail.  A view is asked with its owner's rights, so each one has the
-- row-level security of the tables once more: vitrail_views.may().

BEGIN;
CREATE SCHEMA IF NOT EXISTS vitrail_views;

CREATE OR REPLACE FUNCTION vitrail_views.may(owner name) RETURNS boolean
    LANGUAGE sql STABLE AS $$
    SELECT owner = current_user OR vitrail.reads() OR pg_has_role(
        (SELECT relowner FROM pg_class WHERE oid = 'vitrail.event'::regclass), 'USAGE')
$$;

-- A machine's role may put any text where the event's JSON should be: such a row has
-- no values, and ends no question about the others.
CREATE OR REPLACE FUNCTION vitrail_views.object_of(body text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN jsonb_typeof(body::jsonb) = 'object' THEN body::jsonb END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION vitrail_views.number(value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN value ~ '^[0-9]{1,18}$' THEN value::bigint END
$$;
CREATE OR REPLACE FUNCTION vitrail_views.seconds(value text) RETURNS double precision
    LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN value ~ '^[0-9]{1,15}([.][0-9]{1,20})?([eE]-?[0-9]{1,2})?$'
        THEN value::double precision END
$$;
-- Times are kept in nanoseconds: WHERE place_ns >= vitrail_views.ns('2026-11-24 09:00Z')
CREATE OR REPLACE FUNCTION vitrail_views.ns(moment timestamptz) RETURNS bigint
    LANGUAGE sql IMMUTABLE AS $$
    SELECT (extract(epoch FROM moment) * 1000000)::bigint * 1000
$$;

CREATE OR REPLACE VIEW vitrail_views.events WITH (security_barrier) AS
SELECT log.machine,
    event.log,
    event.sequence,
    to_timestamp(event.place_ns / 1e9) AS at,
    to_timestamp(event.received_ns / 1e9) AS received,
    event.kind,
    event.sandbox,
    coalesce(field ->> 'lease', '') AS lease,
    event.service,
    vitrail_views.number(field ->> 'stream') AS stream,
    coalesce(field ->> 'peer', '') AS peer,
    field ->> 'target' AS target,
    field ->> 'object' AS object,
    event.verdict,
    event.rule,
    CASE WHEN jsonb_typeof(field -> 'detail') = 'object'
        THEN field -> 'detail' ->> 'record' END AS record_line,
    coalesce(field ->> 'outcome', '') AS outcome,
    field ->> 'reason' AS reason,
    coalesce(vitrail_views.number(field ->> 'count'), 1) AS count,
    event.place_ns,
    event.body
FROM vitrail.event
    JOIN vitrail.log ON log.id = event.log
    CROSS JOIN LATERAL vitrail_views.object_of(event.body) AS field
WHERE vitrail_views.may(log.owner);
COMMENT ON VIEW vitrail_views.events IS
    'every event; at: its time, or its arrival where the time is more than a minute after';

CREATE OR REPLACE VIEW vitrail_views.decisions WITH (security_barrier) AS
SELECT machine, log, sequence, at, sandbox, lease, service, stream, target, object,
    verdict, rule, record_line, reason, count,
    field ->> 'policy' AS policy,
    field ->> 'answered_by' AS answered_by,
    vitrail_views.number(field ->> 'question') AS question,
    place_ns
FROM vitrail_views.events
    CROSS JOIN LATERAL vitrail_views.object_of(body) AS field
WHERE kind = 'decision';
COMMENT ON VIEW vitrail_views.decisions IS 'who asked for what, and by which lines';

CREATE OR REPLACE VIEW vitrail_views.streams WITH (security_barrier) AS
SELECT machine, log, sequence, at, sandbox, lease, service, stream,
    vitrail_views.number(field ->> 'bytes_from_sandbox') AS bytes_from_sandbox,
    vitrail_views.number(field ->> 'bytes_to_sandbox') AS bytes_to_sandbox,
    vitrail_views.seconds(field ->> 'seconds') AS seconds,
    outcome, reason, place_ns
FROM vitrail_views.events
    CROSS JOIN LATERAL vitrail_views.object_of(body) AS field
WHERE kind = 'stream.closed';
COMMENT ON VIEW vitrail_views.streams IS 'streams that ended, with the bytes moved';

-- Joined by lease and stream, because numbers of transfers begin at 1 with each broker.
CREATE OR REPLACE VIEW vitrail_views.transfers WITH (security_barrier) AS
SELECT began.machine, began.log, began.sequence, began.at, began.sandbox, began.lease,
    began.service, began.stream, began.target, began.object, began.rule,
    ended.field ->> 'opened_in' AS opened_in,
    vitrail_views.number(ended.field ->> 'bytes') AS bytes,
    vitrail_views.number(ended.field ->> 'files') AS files,
    vitrail_views.seconds(ended.field ->> 'seconds') AS seconds,
    coalesce(ended.outcome, '') AS outcome,
    ended.field ->> 'reason' AS reason,
    began.place_ns
FROM vitrail_views.events began
    LEFT JOIN LATERAL (
        SELECT vitrail_views.object_of(there.body) ->> 'outcome' AS outcome,
            vitrail_views.object_of(there.body) AS field
        FROM vitrail.event there
        WHERE there.log = began.log AND there.sequence > began.sequence
            AND there.kind = 'transfer.end'
            AND vitrail.text_of(there.body, 'lease') = began.lease
            AND vitrail_views.number(
                vitrail_views.object_of(there.body) ->> 'stream') = began.stream
        ORDER BY there.sequence LIMIT 1
    ) AS ended ON true
WHERE began.kind = 'transfer.begin';
COMMENT ON VIEW vitrail_views.transfers IS
    'files and addresses that went to another sandbox or to the user, and where';

DO $$ BEGIN
    GRANT USAGE ON SCHEMA vitrail_views TO vitrail_reader;
    GRANT SELECT ON ALL TABLES IN SCHEMA vitrail_views TO vitrail_reader;
EXCEPTION WHEN undefined_object THEN
    RAISE NOTICE 'there is no role vitrail_reader: create it, and run this again';
END $$;
COMMIT;
