-- What dialect `postgres` adds: a batch with its locks, checks and writes as one statement, and one round trip.
--
-- They are VOLATILE, so that under READ COMMITTED each statement inside takes a fresh snapshot, after the locks were waited for.
-- `IF f() IS NULL` calls f without the cost of a statement of its own.

-- How long the commit of this transaction waits.
CREATE OR REPLACE FUNCTION {schema}.begin_batch(durable boolean) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'Seabed needs transactions that are READ COMMITTED by default' USING ERRCODE = '0A000';
    END IF;
    IF NOT durable THEN
        RETURN set_config('synchronous_commit', 'off', true) IS NULL;
    END IF;
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        RETURN set_config('synchronous_commit', 'on', true) IS NULL;
    END IF;
    RETURN true;
END
$$;

-- Lets the commit of this transaction wait until everything that it has seen is durable, also on synchronous standbys: a transaction that
-- wrote nothing waits for nothing.
CREATE OR REPLACE FUNCTION {schema}.settle() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('synchronous_standby_names') <> '' OR pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn() THEN
        PERFORM {schema}.begin_batch(true), pg_logical_emit_message(true, 'seabed', '');
    END IF;
    RETURN true;
END
$$;

-- One write, put (4) or delete (5), with at most one check: absent (0), exists (1), equals (2), SHA-256 equals (3).
CREATE OR REPLACE FUNCTION {schema}.apply_one(
    durable boolean, first_category bigint, second_category bigint,
    first_key bigint, first_exclusive boolean, second_key bigint, second_exclusive boolean,
    p_tenant bytea,
    check_kind integer, check_category bytea, check_key bytea, check_digest bytea, expected bytea,
    write_kind integer, p_category bytea, p_key bytea, p_digest bytea, p_tail bytea, p_category_tail bytea, p_payload bytea,
    OUT refused boolean, OUT held bytea, OUT deleted bigint
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    deleted := 0;
    IF {schema}.begin_batch(durable) IS NULL OR pg_advisory_xact_lock_shared(first_category) IS NULL THEN
    END IF;
    IF second_category IS NOT NULL AND pg_advisory_xact_lock_shared(second_category) IS NULL THEN
    END IF;
    IF first_exclusive THEN
        IF pg_advisory_xact_lock(first_key) IS NULL THEN
        END IF;
    ELSIF pg_advisory_xact_lock_shared(first_key) IS NULL THEN
    END IF;
    IF second_key IS NOT NULL THEN
        IF second_exclusive THEN
            IF pg_advisory_xact_lock(second_key) IS NULL THEN
            END IF;
        ELSIF pg_advisory_xact_lock_shared(second_key) IS NULL THEN
        END IF;
    END IF;
    IF check_kind IS NOT NULL THEN
        SELECT payload INTO held FROM {schema}.rows
            WHERE tenant = p_tenant AND category = check_category AND key = check_key AND digest = check_digest;
        IF check_kind = 0 THEN
            refused := held IS NOT NULL;
        ELSIF check_kind = 1 THEN
            refused := held IS NULL;
        ELSIF check_kind = 2 THEN
            refused := held IS DISTINCT FROM expected;
        ELSE
            refused := sha256(held) IS DISTINCT FROM expected;
        END IF;
        IF refused THEN
            PERFORM {schema}.settle();
            RETURN;
        END IF;
        held := NULL;
    END IF;
    refused := false;
    IF write_kind = 4 THEN
        INSERT INTO {schema}.rows AS r (tenant, category, key, digest, tail, category_tail, payload)
            VALUES (p_tenant, p_category, p_key, p_digest, p_tail, p_category_tail, p_payload)
            ON CONFLICT (tenant, category, key, digest) DO UPDATE SET payload = excluded.payload;
    ELSE
        DELETE FROM {schema}.rows
            WHERE tenant = p_tenant AND category = p_category AND key = p_key AND digest = p_digest;
        GET DIAGNOSTICS deleted = ROW_COUNT;
        IF durable AND deleted = 0 THEN
            PERFORM {schema}.settle();
        END IF;
    END IF;
END
$$;

-- Puts alone, each of another row.
CREATE OR REPLACE FUNCTION {schema}.apply_puts(
    durable boolean, numbers bigint[], exclusives boolean[], p_tenant bytea,
    categories bytea[], keys bytea[], digests bytea[], tails bytea[], category_tails bytea[], payloads bytea[]
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM {schema}.begin_batch(durable);
    PERFORM CASE WHEN exclusive THEN pg_advisory_xact_lock(number) ELSE pg_advisory_xact_lock_shared(number) END
        FROM unnest(numbers, exclusives) AS lock(number, exclusive);
    INSERT INTO {schema}.rows AS r (tenant, category, key, digest, tail, category_tail, payload)
        SELECT p_tenant, put.* FROM unnest(categories, keys, digests, tails, category_tails, payloads) AS put
        ON CONFLICT (tenant, category, key, digest) DO UPDATE SET payload = excluded.payload;
END
$$;

-- Any requests, one after another, step by step: the checks of each before its writes. A prefix delete (6) has the first key of its range
-- in `key` and `tail`, and the end of it in `value` and `digest`.
CREATE OR REPLACE FUNCTION {schema}.apply_many(
    durable boolean, numbers bigint[], exclusives boolean[], p_tenant bytea,
    requests integer[], kinds integer[], categories bytea[], keys bytea[], digests bytea[], tails bytea[],
    category_tails bytea[], payloads bytea[],
    OUT request integer, OUT failed integer, OUT held bytea, OUT deleted bigint
) RETURNS SETOF record LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    step record;
    found_payload bytea;
    checked integer := 0;
    removed bigint;
    wrote boolean := false;
    refused boolean := false;
BEGIN
    PERFORM {schema}.begin_batch(durable);
    PERFORM CASE WHEN exclusive THEN pg_advisory_xact_lock(number) ELSE pg_advisory_xact_lock_shared(number) END
        FROM unnest(numbers, exclusives) AS lock(number, exclusive);
    FOR step IN
        SELECT * FROM unnest(requests, kinds, categories, keys, digests, tails, category_tails, payloads)
            AS given(request, kind, category, key, digest, tail, category_tail, value)
    LOOP
        IF step.request IS DISTINCT FROM request THEN
            IF request IS NOT NULL THEN
                RETURN NEXT;
            END IF;
            request := step.request;
            failed := NULL;
            held := NULL;
            deleted := 0;
            checked := 0;
        END IF;
        IF failed IS NOT NULL THEN
            CONTINUE;
        END IF;
        IF step.kind < 4 THEN
            SELECT payload INTO found_payload FROM {schema}.rows
                WHERE tenant = p_tenant AND category = step.category AND key = step.key AND digest = step.digest;
            IF (CASE step.kind
                WHEN 0 THEN found_payload IS NOT NULL
                WHEN 1 THEN found_payload IS NULL
                WHEN 2 THEN found_payload IS DISTINCT FROM step.value
                ELSE sha256(found_payload) IS DISTINCT FROM step.value
            END) THEN
                failed := checked;
                held := found_payload;
                refused := true;
            END IF;
            checked := checked + 1;
        ELSIF step.kind = 4 THEN
            INSERT INTO {schema}.rows AS r (tenant, category, key, digest, tail, category_tail, payload)
                VALUES (p_tenant, step.category, step.key, step.digest, step.tail, step.category_tail, step.value)
                ON CONFLICT (tenant, category, key, digest) DO UPDATE SET payload = excluded.payload;
            wrote := true;
        ELSE
            IF step.kind = 5 THEN
                DELETE FROM {schema}.rows
                    WHERE tenant = p_tenant AND category = step.category AND key = step.key AND digest = step.digest;
            ELSE
                DELETE FROM {schema}.rows
                    WHERE tenant = p_tenant AND category = step.category
                        AND key >= step.key AND (key, tail) >= (step.key, step.tail)
                        AND key <= step.value AND (key, tail) < (step.value, step.digest);
            END IF;
            GET DIAGNOSTICS removed = ROW_COUNT;
            deleted := deleted + removed;
            wrote := wrote OR removed > 0;
        END IF;
    END LOOP;
    IF request IS NOT NULL THEN
        RETURN NEXT;
    END IF;
    IF NOT (durable AND wrote) AND (durable OR refused) THEN
        PERFORM {schema}.settle();
    END IF;
END
$$;
