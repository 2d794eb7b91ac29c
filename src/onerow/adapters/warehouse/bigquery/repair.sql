-- Repair of duplicates. The engine has no row numbers, so rows are told apart by their place among those of their key:
-- all rows of a repeated key are set aside, those that stay are put back. {repeated} is a temporary table of one script.

-- name: refuse_rows
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:duplicates:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([{row_identity_texts}, CAST(COUNT(*) AS STRING)]) AS k
    FROM (SELECT {row_identity_of_target} FROM {target} AS T WHERE {touched}) AS T
    GROUP BY {row_identity} HAVING COUNT(*) > 1
) AS d;

-- name: grown
SELECT {scope} AS `partition`, {token} AS token, 0 AS parts, 0 AS rows_staged,
    COALESCE({rows_inserted}, (SELECT COUNT(*) FROM {target} AS T WHERE {touched}) - onerow_rows_before) AS rows_inserted,
    0 AS rows_updated, 0 AS rows_unchanged, {superseded} AS rows_superseded;

-- name: repeated
-- Rows of keys that stand more than once, place 1 is the newest; `same`: identical to it in every column.
SELECT *, CAST(NULL AS INT64) AS __onerow_number FROM (
    SELECT *, COUNT(*) OVER (PARTITION BY {identity}) AS __onerow_rows,
        ROW_NUMBER() OVER (PARTITION BY {identity} ORDER BY {newest_first}) AS __onerow_place,
        RANK() OVER (PARTITION BY {identity} ORDER BY {newest_first}) = 1 AS __onerow_same
    FROM (
        SELECT {all_of_target}, {target_key} AS __onerow_key, {row_content} AS __onerow_content
        FROM {target} AS T WHERE {named}
    ) AS t
) AS r WHERE __onerow_rows > 1;

-- name: repeated_of_versions
-- In versions mode: keys that have one content twice, or one version. Place 1 is the lowest version of a content and
-- stays; of different contents with one version the oldest keeps it, the others are numbered above the highest.
SELECT * FROM (
    SELECT *, COALESCE(__onerow_clash, 1) = 1 AS __onerow_same, COUNT(*) OVER (PARTITION BY {identity}) AS __onerow_rows,
        IF(__onerow_clash > 1, __onerow_highest + ROW_NUMBER() OVER (
            PARTITION BY {identity}, COALESCE(__onerow_clash, 0) > 1 ORDER BY {oldest_first}), NULL) AS __onerow_number,
        MAX(GREATEST(__onerow_place, COALESCE(__onerow_clash, 1))) OVER (PARTITION BY {identity}) AS __onerow_worst
    FROM (
        SELECT *, MAX({version}) OVER (PARTITION BY {identity}) AS __onerow_highest,
            IF(__onerow_place = 1, ROW_NUMBER() OVER (
                PARTITION BY {identity}, {version}, __onerow_place = 1 ORDER BY {oldest_first}), NULL) AS __onerow_clash
        FROM (
            SELECT *, ROW_NUMBER() OVER (PARTITION BY __onerow_declared ORDER BY COALESCE({version}, 9223372036854775807))
                AS __onerow_place
            FROM (
                SELECT {all_of_target}, {target_key} AS __onerow_key, {row_content} AS __onerow_content,
                    {target_content} AS __onerow_declared
                FROM {target} AS T WHERE {named}
            ) AS t
        ) AS p
    ) AS c
) AS n WHERE __onerow_worst > 1;

-- name: keys
-- One row a key; `near`: its rows were written within a second of each other.
SELECT {identity}, ANY_VALUE(__onerow_key) AS __onerow_key, COUNT(*) AS __onerow_rows,
    LOGICAL_AND(__onerow_same) AS __onerow_identical, {near} AS __onerow_near,
    COUNTIF(__onerow_place > 1) AS __onerow_extra, COUNT(__onerow_number) AS __onerow_renumbered
FROM ({repeated}) AS r GROUP BY {identity};

-- name: count_keys
SELECT {partition_text}, __onerow_identical, __onerow_near, COUNT(*), SUM(__onerow_extra), SUM(__onerow_renumbered)
FROM ({keys}) AS k GROUP BY 1, 2, 3;

-- name: fingerprints
-- A sum does not depend on the order of the rows, and copies do not cancel each other out.
SELECT {partition_text} AS `partition`,
    CONCAT(CAST(COUNT(*) AS STRING), ':', CAST(SUM(CAST(FARM_FINGERPRINT(__onerow_content) AS BIGNUMERIC)) AS STRING))
        AS fingerprint
FROM ({repeated}) AS r GROUP BY 1;

-- name: list_keys
SELECT {identity}, __onerow_rows, __onerow_identical, __onerow_near FROM ({keys}) AS k ORDER BY {identity_in_order} LIMIT {limit};

-- name: list_ids
SELECT __onerow_key, __onerow_place, {id} FROM ({repeated}) AS r WHERE __onerow_key IN UNNEST(@keys)
ORDER BY __onerow_key, __onerow_place;

-- name: list_key_names
SELECT __onerow_key FROM ({keys}) AS k ORDER BY {identity_in_order} LIMIT {limit};

-- name: count_rows
SELECT {target_partition_text}, COUNT(*) FROM {target} AS T WHERE {named} GROUP BY 1;

-- name: count_rounding
-- Groups of keys that are one key once a decimal column is cast to an integer.
SELECT COUNT(*) FROM (
    SELECT 1 AS one FROM (SELECT {identity_of_target} FROM {target} AS T WHERE {named}) AS t
    WHERE {decimal} IS NOT NULL GROUP BY {groups} HAVING COUNT(DISTINCT {decimal}) > 1
) AS g;

-- name: make_repeated
CREATE TEMP TABLE {repeated} AS {query};

-- name: check_fingerprints
SELECT IF(COUNT(*) = COUNTIF(f.fingerprint = w.fingerprint) AND COUNT(*) = {partitions}, 'as planned',
    ERROR('onerow:plan_outdated:;'))
FROM ({fingerprints}) AS f FULL OUTER JOIN ({wanted}) AS w ON w.`partition` = f.`partition`;

-- name: move_aside
INSERT INTO {removed} ({stored_columns}, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch)
SELECT {repeated_columns}, {run}, CURRENT_TIMESTAMP(), w.reason, w.batch
FROM {repeated} AS r
JOIN ({keys}) AS k ON k.__onerow_key = r.__onerow_key
JOIN ({reasons}) AS w ON w.`partition` = {repeated_partition_text} AND w.identical = k.__onerow_identical
    AND w.near = k.__onerow_near
WHERE r.__onerow_place > 1;

-- name: delete_repeated
DELETE FROM {target} AS T WHERE {touched} AND {target_key} IN (SELECT __onerow_key FROM {repeated});

-- name: put_back
INSERT INTO {target} ({stored_columns}) SELECT {stored_values} FROM ({kept}) AS S;

-- name: kept
SELECT * FROM {repeated} WHERE __onerow_place = 1;

-- name: kept_of_versions
SELECT * REPLACE (COALESCE(__onerow_number, {version}) AS {version}) FROM {repeated} WHERE __onerow_place = 1;

-- name: check_moved
SELECT IF(onerow_rows_before - COUNT(*) = {extra_rows}, 'moved',
    ERROR('onerow:verify:other rows were moved aside than the plan says;'))
FROM {target} AS T WHERE {touched};

-- name: drop_repeated
DROP TABLE {repeated};

-- name: find_removed
SELECT {id}, __onerow_removed_at, __onerow_reason FROM {removed}
WHERE __onerow_run = {run} AND {is_key} ORDER BY {newest_first} LIMIT 1;

-- name: find_runs
SELECT __onerow_run FROM {removed} WHERE {is_key} GROUP BY __onerow_run ORDER BY MAX(__onerow_removed_at) DESC LIMIT 5;

-- name: find_current
SELECT {id} FROM (SELECT {all_of_target} FROM {target} AS T WHERE {touched}) AS t WHERE {is_key};

-- name: take_removed
CREATE TEMP TABLE {repeated} AS
SELECT *, ROW_NUMBER() OVER (ORDER BY {newest_first}) AS __onerow_place FROM {removed}
WHERE __onerow_run = {run} AND {is_key};

-- name: check_exchange
SELECT IF((SELECT COUNT(*) FROM {repeated}) > 0
    AND (SELECT COUNT(*) FROM (SELECT {identity_of_target} FROM {target} AS T WHERE {touched}) AS t WHERE {is_key}) = {current},
    'as planned', ERROR('onerow:conflict:the rows are not those that were looked at;'));

-- name: forget_removed
DELETE FROM {removed} WHERE __onerow_run = {run} AND {is_key};

-- name: keep_removed
INSERT INTO {removed} ({stored_columns}, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch)
SELECT {stored_columns}, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch FROM {repeated}
WHERE __onerow_place > 1;

-- name: put_aside
INSERT INTO {removed} ({stored_columns}, __onerow_run, __onerow_removed_at, __onerow_reason, __onerow_batch)
SELECT {stored_columns}, {mine_run}, CURRENT_TIMESTAMP(), {reason}, {batch}
FROM (SELECT {all_of_target} FROM {target} AS T WHERE {touched}) AS t WHERE {is_key};

-- name: delete_current
DELETE FROM {target} AS T WHERE {touched} AND {target_is_key};
