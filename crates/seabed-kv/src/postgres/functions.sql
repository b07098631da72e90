-- What dialect `postgres` adds: a batch with its locks, checks and writes as one statement, and one round trip.
--
-- They are VOLATILE, so that under READ COMMITTED each statement inside takes a fresh snapshot, after the locks were waited for.
-- `IF f() IS NULL` calls f without the cost of a statement of its own.

-- Empty after every crash of the server and on a standby that took over, because it is unlogged: whoever relies on commits that were not
-- flushed sees by its one row that they may be gone.
CREATE UNLOGGED TABLE IF NOT EXISTS {schema}.epoch (
    single boolean NOT NULL DEFAULT true CHECK (single),
    number bigint NOT NULL,
    PRIMARY KEY (single)
);

CREATE OR REPLACE FUNCTION {schema}.current_epoch() RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    current bigint;
BEGIN
    SELECT number INTO current FROM {schema}.epoch;
    IF current IS NULL THEN
        INSERT INTO {schema}.epoch (number) VALUES (hashtextextended(gen_random_uuid()::text, 0)) ON CONFLICT DO NOTHING;
        SELECT number INTO current FROM {schema}.epoch;
    END IF;
    RETURN current;
END
$$;

-- The milliseconds that are left before the caller gives up, by this server's clock.
CREATE OR REPLACE FUNCTION {schema}.left_ms(give_up bigint) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    left_ms bigint := give_up - (date_part('epoch', clock_timestamp()) * 1000)::bigint;
BEGIN
    IF left_ms <= 0 THEN
        RAISE EXCEPTION 'it came, or would end, later than its sender waits' USING ERRCODE = 'SB002';
    END IF;
    RETURN left_ms;
END
$$;

-- Bounds how long this transaction waits for each lock, and sets how long its commit waits. `relied_on` is the epoch of commits that the
-- caller was told of and that are not known to be durable; the answer is that of this one, where it matters.
CREATE OR REPLACE FUNCTION {schema}.begin_batch(give_up bigint, durable boolean, relied_on bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    current bigint;
BEGIN
    IF set_config('lock_timeout', least({schema}.left_ms(give_up), {statement_ms_max})::text, true) IS NULL THEN
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'Seabed needs transactions that are READ COMMITTED by default' USING ERRCODE = '0A000';
    END IF;
    IF NOT durable OR relied_on IS NOT NULL THEN
        current := {schema}.current_epoch();
        IF current <> relied_on THEN
            RAISE EXCEPTION 'the server has lost its last commits' USING ERRCODE = 'SB001';
        END IF;
    END IF;
    IF durable THEN
        IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
            PERFORM set_config('synchronous_commit', 'on', true);
        END IF;
    ELSE
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    RETURN current;
END
$$;

-- Lets the commit of this transaction wait until everything that it has seen is durable, also on synchronous standbys: a transaction that
-- wrote nothing waits for nothing.
CREATE OR REPLACE FUNCTION {schema}.settle() RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF current_setting('synchronous_standby_names') <> '' OR pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn() THEN
        IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
            PERFORM set_config('synchronous_commit', 'on', true);
        END IF;
        PERFORM pg_logical_emit_message(true, 'seabed', '');
    END IF;
    RETURN true;
END
$$;

-- The tenants that have rows and no name, from one to the next along the index.
CREATE OR REPLACE FUNCTION {schema}.unnamed_tenants() RETURNS SETOF bytea LANGUAGE plpgsql STABLE AS $$
DECLARE
    current bytea;
BEGIN
    SELECT tenant INTO current FROM {schema}.rows ORDER BY tenant LIMIT 1;
    WHILE current IS NOT NULL LOOP
        IF NOT EXISTS (SELECT FROM {schema}.tenants WHERE tenant = current) THEN
            RETURN NEXT current;
        END IF;
        SELECT tenant INTO current FROM {schema}.rows WHERE tenant > current ORDER BY tenant LIMIT 1;
    END LOOP;
END
$$;

-- One write, put (4) or delete (5), with at most one check: absent (0), exists (1), equals (2), SHA-256 equals (3).
CREATE OR REPLACE FUNCTION {schema}.apply_one(
    give_up bigint, durable boolean, relied_on bigint, first_category bigint, second_category bigint,
    first_key bigint, first_exclusive boolean, second_key bigint, second_exclusive boolean,
    p_tenant bytea,
    check_kind integer, check_category bytea, check_key bytea, check_digest bytea, expected bytea,
    write_kind integer, p_category bytea, p_key bytea, p_digest bytea, p_tail bytea, p_category_tail bytea, p_payload bytea,
    OUT refused boolean, OUT held bytea, OUT deleted bigint, OUT epoch bigint
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    deleted := 0;
    epoch := {schema}.begin_batch(give_up, durable, relied_on);
    IF pg_advisory_xact_lock_shared(first_category) IS NULL THEN
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
    IF {schema}.left_ms(give_up) IS NULL THEN
    END IF;
END
$$;

-- One durable put, with at most one check as `apply_one` has it, of one lock of a category: what is sent most. Its answer is NULL when it was
-- applied, else `1` and the row that the check found, or `0` for none: a record would be a tenth of the whole. Each expression
-- costs about as much as a lock, so what can stand in one does; num_nonnulls calls all of its arguments, in order.
CREATE OR REPLACE FUNCTION {schema}.apply_put(
    give_up bigint, category_lock bigint, first_key bigint, first_exclusive boolean, second_key bigint, second_exclusive boolean,
    p_tenant bytea,
    check_kind integer, check_category bytea, check_key bytea, check_digest bytea, expected bytea,
    p_category bytea, p_key bytea, p_digest bytea, p_tail bytea, p_category_tail bytea, p_payload bytea
) RETURNS bytea LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held bytea;
BEGIN
    IF num_nonnulls(
        -- As `begin_batch`, which says what is wrong, or sets what is not set.
        CASE WHEN date_part('epoch', clock_timestamp()) * 1000 < give_up
            AND current_setting('transaction_isolation') = 'read committed'
            AND current_setting('synchronous_commit') = 'on'
        THEN set_config('lock_timeout', '{statement_ms_max}', true)
        ELSE {schema}.begin_batch(give_up, true, NULL)::text END,
        pg_advisory_xact_lock_shared(category_lock),
        CASE WHEN first_exclusive THEN pg_advisory_xact_lock(first_key) ELSE pg_advisory_xact_lock_shared(first_key) END,
        CASE WHEN second_exclusive THEN pg_advisory_xact_lock(second_key)
            WHEN second_key IS NOT NULL THEN pg_advisory_xact_lock_shared(second_key) END
    ) IS NULL THEN
    END IF;
    IF check_kind IS NOT NULL THEN
        SELECT payload INTO held FROM {schema}.rows
            WHERE tenant = p_tenant AND category = check_category AND key = check_key AND digest = check_digest;
        IF (CASE check_kind
            WHEN 0 THEN held IS NOT NULL
            WHEN 1 THEN held IS NULL
            WHEN 2 THEN held IS DISTINCT FROM expected
            ELSE sha256(held) IS DISTINCT FROM expected
        END) THEN
            PERFORM {schema}.settle();
            RETURN coalesce('1' || held, '0');
        END IF;
    END IF;
    INSERT INTO {schema}.rows AS r (tenant, category, key, digest, tail, category_tail, payload)
        VALUES (p_tenant, p_category, p_key, p_digest, p_tail, p_category_tail, p_payload)
        ON CONFLICT (tenant, category, key, digest) DO UPDATE SET payload = excluded.payload;
    IF date_part('epoch', clock_timestamp()) * 1000 >= give_up THEN
        PERFORM {schema}.left_ms(give_up);
    END IF;
    RETURN NULL;
END
$$;

-- Puts alone, each of another row. Where all are of one category and no name is cut, that category is the only one there, and of digests and
-- tails there are none.
CREATE OR REPLACE FUNCTION {schema}.apply_puts(
    give_up bigint, durable boolean, relied_on bigint, numbers bigint[], exclusives boolean[], p_tenant bytea,
    categories bytea[], keys bytea[], digests bytea[], tails bytea[], category_tails bytea[], payloads bytea[]
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    epoch bigint := {schema}.begin_batch(give_up, durable, relied_on);
BEGIN
    PERFORM CASE WHEN exclusive THEN pg_advisory_xact_lock(number) ELSE pg_advisory_xact_lock_shared(number) END
        FROM unnest(numbers, exclusives) AS lock(number, exclusive);
    INSERT INTO {schema}.rows AS r (tenant, category, key, digest, tail, category_tail, payload)
        SELECT p_tenant, put.* FROM unnest(categories, keys, digests, tails, category_tails, payloads) AS put
        ON CONFLICT (tenant, category, key, digest) DO UPDATE SET payload = excluded.payload;
    IF {schema}.left_ms(give_up) IS NULL THEN
    END IF;
    RETURN epoch;
END
$$;

-- The same of one category, and of names that are not cut. It is a function of its own, and not another way to call that one: servers of an
-- older version put theirs in the place of that one, when both make the schema at once.
CREATE OR REPLACE FUNCTION {schema}.apply_short_puts(
    give_up bigint, durable boolean, relied_on bigint, numbers bigint[], exclusives boolean[], p_tenant bytea,
    p_category bytea, keys bytea[], payloads bytea[]
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    epoch bigint := {schema}.begin_batch(give_up, durable, relied_on);
BEGIN
    PERFORM CASE WHEN exclusive THEN pg_advisory_xact_lock(number) ELSE pg_advisory_xact_lock_shared(number) END
        FROM unnest(numbers, exclusives) AS lock(number, exclusive);
    INSERT INTO {schema}.rows AS r (tenant, category, key, digest, tail, category_tail, payload)
        SELECT p_tenant, p_category, put.key, '', '', '', put.payload
        FROM unnest(keys, payloads) AS put(key, payload)
        ON CONFLICT (tenant, category, key, digest) DO UPDATE SET payload = excluded.payload;
    IF {schema}.left_ms(give_up) IS NULL THEN
    END IF;
    RETURN epoch;
END
$$;

-- Any requests, one after another, step by step: the checks of each before its writes. When refusals have answered enough bytes, the
-- requests that are left are not begun and nothing is said of them. A prefix delete (6) has the first key of its range
-- in `key` and `tail`, and the end of it in `value` and `digest`.
CREATE OR REPLACE FUNCTION {schema}.apply_many(
    give_up bigint, durable boolean, relied_on bigint, numbers bigint[], exclusives boolean[], p_tenant bytea,
    requests integer[], kinds integer[], categories bytea[], keys bytea[], digests bytea[], tails bytea[],
    category_tails bytea[], payloads bytea[],
    OUT request integer, OUT failed integer, OUT held bytea, OUT deleted bigint, OUT epoch bigint
) RETURNS SETOF record LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    step record;
    found_payload bytea;
    checked integer := 0;
    answered_bytes bigint := 0;
    removed bigint;
    wrote boolean := false;
    refused boolean := false;
BEGIN
    epoch := {schema}.begin_batch(give_up, durable, relied_on);
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
            request := NULL;
            EXIT WHEN answered_bytes >= {answer_bytes_max};
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
                answered_bytes := answered_bytes + coalesce(octet_length(held), 0);
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
    IF {schema}.left_ms(give_up) IS NULL THEN
    END IF;
END
$$;
