//! Every statement, by name. `{schema}` is the quoted name of the schema: all names are qualified, because a pooler in between may hand each
//! transaction to another session. `docs/operate/postgres-statements.md` says what other servers document about their parts.

/// A statement, with the schema written into it.
macro_rules! statements {
    ($($name:ident = $text:expr;)*) => {
        $(pub(super) const $name: &str = $text;)*

        /// The statements as they are sent.
        #[derive(Debug)]
        #[allow(non_snake_case, reason = "a field for each constant")]
        pub(super) struct Statements { $(pub(super) $name: String),* }

        impl Statements {
            pub(super) fn new(schema: &str) -> Self {
                Self { $($name: $name.replace("{schema}", schema)),* }
            }
        }
    };
}

statements! {
    // Both dialects.
    VERSION = "SELECT version, dialect, writer FROM {schema}.format ORDER BY version DESC LIMIT 1";
    WRITE_VERSION = "INSERT INTO {schema}.format (version, dialect, writer) VALUES ($1, $2, $3) ON CONFLICT (version) DO NOTHING";
    CLOCK = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)";
    CLOCK_AND_PROCESS = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint), pg_backend_pid()";
    OPEN = "INSERT INTO {schema}.tenants (tenant) VALUES ($1) ON CONFLICT (tenant) DO NOTHING";
    LIST = "SELECT tenant FROM {schema}.tenants";
    // Along the index, to where a step of a verification would end. Not when its sender has given it up: the tenant may be another one by then.
    REMOVE_ROWS = "DELETE FROM {schema}.rows WHERE tenant = $1 AND ($2 OR (category, key, digest) <= ($3, $4, $5)) \
                   AND CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) < $6";
    REMOVE = "DELETE FROM {schema}.tenants WHERE tenant = $1 AND NOT EXISTS (SELECT 1 FROM {schema}.rows WHERE tenant = $1)";
    REMOVE_LEFT = "SELECT 1 FROM {schema}.rows WHERE tenant = $1 LIMIT 1";
    GET = "SELECT payload FROM {schema}.rows WHERE tenant = $1 AND category = $2 AND key = $3 AND digest = $4";
    EXISTS = "SELECT 1 FROM {schema}.rows WHERE tenant = $1 AND category = $2 AND key = $3 AND digest = $4";
    COUNT = "SELECT count(*) FROM {schema}.rows WHERE tenant = $1 AND category = $2 \
             AND key >= $3 AND (key, tail) >= ($3, $4) AND key <= $5 AND (key, tail) < ($5, $6)";
    // The window adds up lengths, which reads no payload: one page fetches little more than its bound.
    SCAN = "SELECT key, tail, payload FROM (\
            SELECT key, tail, CASE WHEN $7 THEN ''::bytea ELSE payload END AS payload, \
            sum(octet_length(key) + octet_length(tail) + CASE WHEN $7 THEN 0 ELSE octet_length(payload) END) \
            OVER (ORDER BY key, tail ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before \
            FROM (SELECT key, tail, payload FROM {schema}.rows WHERE tenant = $1 AND category = $2 \
            AND key >= $3 AND (key, tail) >= ($3, $4) AND key <= $5 AND (key, tail) < ($5, $6) \
            ORDER BY key, tail LIMIT $8) AS page) AS sized \
            WHERE before IS NULL OR before < $9 ORDER BY key, tail";
    SCAN_REVERSE = "SELECT key, tail, payload FROM (\
            SELECT key, tail, CASE WHEN $7 THEN ''::bytea ELSE payload END AS payload, \
            sum(octet_length(key) + octet_length(tail) + CASE WHEN $7 THEN 0 ELSE octet_length(payload) END) \
            OVER (ORDER BY key DESC, tail DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before \
            FROM (SELECT key, tail, payload FROM {schema}.rows WHERE tenant = $1 AND category = $2 \
            AND key >= $3 AND (key, tail) >= ($3, $4) AND key <= $5 AND (key, tail) < ($5, $6) \
            ORDER BY key DESC, tail DESC LIMIT $8) AS page) AS sized \
            WHERE before IS NULL OR before < $9 ORDER BY key DESC, tail DESC";
    CATEGORIES = "SELECT DISTINCT category, category_tail FROM {schema}.rows WHERE tenant = $1";
    // Where the next step of a verification ends; the last one has no end.
    VERIFY_UNTIL = "SELECT category, key, digest FROM {schema}.rows WHERE tenant = $1 AND ($5 OR (category, key, digest) > ($2, $3, $4)) \
                    ORDER BY category, key, digest LIMIT 1 OFFSET 999";
    // The digest of a payload reads it whole; servers differ in what it is, not in that it is something. Ordered and limited, so that it
    // goes along the index.
    VERIFY = "SELECT count(*), coalesce(sum(CASE WHEN category_tail = '' THEN octet_length(category) \
              ELSE octet_length(category_tail) + 255 END + octet_length(key) + octet_length(tail) + octet_length(payload)), 0)::bigint, \
              count(CASE WHEN octet_length(digest) <> CASE WHEN tail = '' THEN 0 ELSE 32 END THEN 1 END), \
              count(CASE WHEN sha256(payload) IS NULL THEN 1 END) FROM (\
              SELECT category, key, digest, tail, category_tail, payload FROM {schema}.rows \
              WHERE tenant = $1 AND ($5 OR (category, key, digest) > ($2, $3, $4)) \
              AND ($6 OR (category, key, digest) <= ($7, $8, $9)) ORDER BY category, key, digest LIMIT 1000) AS step";
    DATA_BYTES = "SELECT coalesce(sum(octet_length(category) + octet_length(category_tail) + octet_length(key) \
                  + octet_length(tail) + octet_length(digest) + octet_length(payload)), 0)::bigint \
                  FROM {schema}.rows WHERE tenant = $1";
    // The view is that of the first statement, not that of BEGIN.
    BEGIN_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1 FROM {schema}.tenants LIMIT 1";
    END_SNAPSHOT = "ROLLBACK";

    // Dialect `postgres`: the functions of functions.sql.
    // Called in a list of columns, because the rows of a function in FROM are stored before they are read.
    APPLY_ONE = "SELECT (one).refused, (one).held, (one).deleted, (one).epoch FROM (SELECT {schema}.apply_one(\
                 $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22\
                 ) AS one OFFSET 0) AS called";
    APPLY_PUT = "SELECT {schema}.apply_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";
    APPLY_PUTS = "SELECT {schema}.apply_puts($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
    APPLY_SHORT_PUTS = "SELECT {schema}.apply_short_puts($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    APPLY_MANY = "SELECT request, failed, held, deleted, epoch FROM {schema}.apply_many(\
                  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    // Tenants that have rows and no name: what somebody wrote after another has dropped the tenant. From one to the next along the index.
    APPLY_UNNAMED = "SELECT tenant FROM {schema}.unnamed_tenants() AS tenant";

    // Dialect `portable`: no functions of ours, one change of one table a statement.
    BEGIN = "BEGIN ISOLATION LEVEL SERIALIZABLE";
    BEGIN_READ = "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY";
    DURABLE = "SET LOCAL synchronous_commit = on";
    PATIENCE = "SET LOCAL statement_timeout = 10000";
    COMMIT = "COMMIT";
    // Does not hold when its sender has given the transaction up, or will have.
    IN_TIME = "SELECT 1 / CASE WHEN CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) < $1 THEN 1 ELSE 0 END";
    // A check that does not hold divides by zero, and so ends the transaction.
    CHECK_ABSENT = "SELECT 1 / CASE WHEN EXISTS (SELECT 1 FROM {schema}.rows \
                    WHERE tenant = $1 AND category = $2 AND key = $3 AND digest = $4) THEN 0 ELSE 1 END";
    CHECK_EXISTS = "SELECT 1 / CASE WHEN EXISTS (SELECT 1 FROM {schema}.rows \
                    WHERE tenant = $1 AND category = $2 AND key = $3 AND digest = $4) THEN 1 ELSE 0 END";
    CHECK_EQUALS = "SELECT 1 / CASE WHEN EXISTS (SELECT 1 FROM {schema}.rows \
                    WHERE tenant = $1 AND category = $2 AND key = $3 AND digest = $4 AND payload = $5) THEN 1 ELSE 0 END";
    PUTS = "INSERT INTO {schema}.rows (tenant, category, key, digest, tail, category_tail, payload) \
            SELECT $1, put.category, put.key, put.digest, put.tail, put.category_tail, put.payload \
            FROM unnest($2, $3, $4, $5, $6, $7) AS put(category, key, digest, tail, category_tail, payload) \
            ON CONFLICT (tenant, category, key, digest) DO UPDATE SET payload = excluded.payload";
    DELETES = "DELETE FROM {schema}.rows WHERE tenant = $1 AND (category, key, digest) IN \
               (SELECT gone.category, gone.key, gone.digest FROM unnest($2, $3, $4) AS gone(category, key, digest))";
    DELETE_RANGE = "DELETE FROM {schema}.rows WHERE tenant = $1 AND category = $2 \
                    AND key >= $3 AND (key, tail) >= ($3, $4) AND key <= $5 AND (key, tail) < ($5, $6)";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{POSTGRES_ANSWER_MS_MAX, POSTGRES_STATEMENT_MS_MAX};

    #[test]
    fn a_statement_ends_before_its_answer_is_waited_for_no_more() {
        assert_eq!(PATIENCE, format!("SET LOCAL statement_timeout = {POSTGRES_STATEMENT_MS_MAX}"));
        const { assert!(POSTGRES_STATEMENT_MS_MAX <= POSTGRES_ANSWER_MS_MAX / 2) };
    }
}
