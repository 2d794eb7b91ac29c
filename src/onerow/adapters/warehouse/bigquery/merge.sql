-- The merge, step by step. A piece in braces is built from the table spec. {staged} is a scratch table of the batch's
-- rows, made before the transaction; place 1 is the winner of its key. "T" is the target and "S" the staged row.
-- __onerow_key is a text of partition and key that joins them fast; the columns are compared exactly besides.

-- name: stage
CREATE OR REPLACE TABLE {staged} OPTIONS (expiration_timestamp = {expires}) AS
SELECT s.*, {staged_key} AS __onerow_key,
    ROW_NUMBER() OVER (PARTITION BY {identity} ORDER BY {newest_first}, __onerow_part) AS __onerow_place,
    RANK() OVER (PARTITION BY {identity} ORDER BY {newest_first}) = 1 AS __onerow_same
FROM ({source}) AS s;

-- name: stage_chunk
CREATE OR REPLACE TABLE {staged} OPTIONS (expiration_timestamp = {expires}) AS {source};

-- name: count_staged
SELECT __onerow_part, {partition_text}, COUNT(*) FROM {staged} GROUP BY 1, 2;

-- name: entries
SELECT __onerow_part AS part_id, {partition_text} AS `partition`, COUNT(*) AS rows_staged
FROM {staged} GROUP BY 1, 2;

-- name: check_and_count
-- Ends the script with the first refusal (see `check` in control.sql), or counts the rows that are there.
SET onerow_rows_before = (
    SELECT IF(refusal IS NULL, rows_before, ERROR(refusal))
    FROM (SELECT COALESCE({refusals}) AS refusal, (SELECT COUNT(*) FROM {target} AS T WHERE {touched}) AS rows_before) AS c
);

-- name: count_again
SET onerow_rows_before = (SELECT COUNT(*) FROM {target} AS T WHERE {touched});

-- name: counts
-- Per partition, before the merge: what will become of every staged row. `newer` is NULL where the key is new.
SELECT c.`partition` AS `partition`, ANY_VALUE(h.token) AS token, ANY_VALUE(h.parts) AS parts,
    COUNT(*) AS rows_staged,
    COUNTIF(c.place = 1 AND c.newer IS NULL) AS rows_inserted,
    COUNTIF(c.place = 1 AND c.newer = 1) AS rows_updated,
    COUNTIF((c.place = 1 AND c.newer = 0) OR (c.place > 1 AND c.same AND COALESCE(c.newer, 1) >= 0)) AS rows_unchanged,
    COUNTIF((c.place = 1 AND c.newer = -1) OR (c.place > 1 AND NOT (c.same AND COALESCE(c.newer, 1) >= 0)))
        AS rows_superseded
FROM (
    SELECT {staged_partition_text} AS `partition`, S.__onerow_place AS place, S.__onerow_same AS same,
        IF(T.onerow_there IS NULL, NULL, {newer}) AS newer
    FROM {staged} AS S
    LEFT JOIN (
        SELECT {compared_columns}, {target_key} AS __onerow_key, TRUE AS onerow_there FROM {target} AS T WHERE {touched}
    ) AS T ON T.__onerow_key = S.__onerow_key AND {same_key}
) AS c
JOIN ({tasks}) AS h ON h.`partition` = c.`partition`
GROUP BY c.`partition`;

-- name: merge
MERGE {target} AS T
USING (SELECT * FROM {staged} WHERE __onerow_place = 1) AS S
ON {touched} AND {target_key} = S.__onerow_key AND {same_key}
{when_newer} WHEN NOT MATCHED BY TARGET THEN INSERT ({columns}) VALUES ({values});

-- name: when_newer
WHEN MATCHED AND {newer} = 1 THEN UPDATE SET {assignments};

-- name: refuse_keys
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:duplicates:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([{identity_texts}, CAST(COUNT(*) AS STRING)]) AS k
    FROM (SELECT {identity_of_target} FROM {target} AS T WHERE {touched}) AS T
    GROUP BY {identity} HAVING COUNT(*) > 1
) AS d;

-- name: refuse_staged
SELECT CASE
    WHEN COUNT(*) <> (SELECT COUNT(*) FROM {staged} WHERE __onerow_place = 1)
        THEN CONCAT('onerow:verify:', CAST(COUNT(*) AS STRING), ' staged keys are in the table, not all;')
    WHEN COUNTIF({newer} = 1) > 0
        THEN CONCAT('onerow:verify:', CAST(COUNTIF({newer} = 1) AS STRING), ' rows are older than a staged one;')
END
FROM (SELECT * FROM {staged} WHERE __onerow_place = 1) AS S
JOIN {target} AS T ON {touched} AND {target_key} = S.__onerow_key AND {same_key};

-- name: refuse_counts
-- Stands right after what has changed the table, whose rows the engine has counted as @@row_count; after anything else
-- that is NULL or another number, and refused. https://cloud.google.com/bigquery/docs/reference/system-variables
SELECT CASE
    WHEN COUNT(*) <> {partitions} OR COUNTIF(rows_staged <> rows_inserted + rows_updated + rows_unchanged + rows_superseded) > 0
        THEN 'onerow:verify:the counts do not add up;'
    WHEN @@row_count IS DISTINCT FROM SUM(rows_inserted + rows_updated)
        THEN 'onerow:verify:the merge has changed other rows than were counted;'
    WHEN (SELECT COUNT(*) FROM {target} AS T WHERE {touched}) <> onerow_rows_before + SUM(rows_inserted)
        THEN 'onerow:verify:the table has other rows than were counted;'
END
FROM {history} AS h WHERE table_name = {name} AND consolidation = {run} AND attempt = {attempt} AND action = 'consolidate'
    AND COALESCE(h.`partition`, '') IN ({partition_names});

-- name: read_touched
-- For a dry run: what the statements above may read of the target, each at most once.
SELECT {all_of_target} FROM {target} AS T WHERE {touched};

-- name: read_table
SELECT {all_of_target} FROM {target} AS T;
