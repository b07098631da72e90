-- Every statement may run twice, also at once: see schema.rs. One statement ends where a line ends with `;` and an empty line follows.

CREATE SCHEMA IF NOT EXISTS {schema};

-- A row of the kernel. Names longer than an index takes are cut: category_tail and tail are the rest, digest tells apart what was cut.
CREATE TABLE IF NOT EXISTS {schema}.rows (
    tenant bytea NOT NULL,
    category bytea NOT NULL,
    key bytea NOT NULL,
    digest bytea NOT NULL,
    tail bytea NOT NULL,
    category_tail bytea NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (tenant, category, key, digest)
);

CREATE TABLE IF NOT EXISTS {schema}.tenants (
    tenant bytea NOT NULL,
    PRIMARY KEY (tenant)
);

CREATE TABLE IF NOT EXISTS {schema}.format (
    version bigint NOT NULL,
    dialect text NOT NULL,
    writer text NOT NULL,
    PRIMARY KEY (version)
);
