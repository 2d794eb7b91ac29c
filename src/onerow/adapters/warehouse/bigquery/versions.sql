-- Numbering versions: what differs from merge.sql. A content is all declared columns of a row; __onerow_content is a
-- text of it, the same for equal contents and for no others.

-- name: stage_versions
CREATE OR REPLACE TABLE {staged} OPTIONS (expiration_timestamp = {expires}) AS
SELECT *, ROW_NUMBER() OVER (PARTITION BY __onerow_content ORDER BY __onerow_part) AS __onerow_place
FROM (SELECT s.*, {staged_key} AS __onerow_key, {staged_content} AS __onerow_content FROM ({source}) AS s) AS s;

-- name: refuse_repeated
-- Before the merge: none of the staged keys has one content under several versions.
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:repeated:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([{identity_texts}, CAST(SUM(n) AS STRING)]) AS k
    FROM (
        SELECT {identity}, COUNT(*) AS n
        FROM (
            SELECT {identity_of_target}, {target_key} AS __onerow_key, {target_content} AS __onerow_content
            FROM {target} AS T WHERE {touched}
        ) AS T
        WHERE __onerow_key IN (SELECT __onerow_key FROM {staged})
        GROUP BY {identity}, __onerow_content HAVING COUNT(*) > 1
    ) AS c
    GROUP BY {identity}
) AS d;

-- name: counts
-- Per partition, before the merge: new contents are inserted, what is there already or twice in the batch is unchanged.
SELECT c.`partition` AS `partition`, ANY_VALUE(h.token) AS token, ANY_VALUE(h.parts) AS parts,
    COUNT(*) AS rows_staged, COUNTIF(c.place = 1 AND NOT c.there) AS rows_inserted, 0 AS rows_updated,
    COUNTIF(c.place > 1 OR c.there) AS rows_unchanged, 0 AS rows_superseded
FROM (
    SELECT {staged_partition_text} AS `partition`, S.__onerow_place AS place,
        S.__onerow_content IN (SELECT {target_content} FROM {target} AS T WHERE {touched}) AS there
    FROM {staged} AS S
) AS c
JOIN ({tasks}) AS h ON h.`partition` = c.`partition`
GROUP BY c.`partition`;

-- name: insert_versions
-- New contents of one key are numbered from the oldest on, after the latest version that is there.
INSERT INTO {target} ({stored_columns})
SELECT {fresh_values},
    COALESCE(l.latest, 0) + ROW_NUMBER() OVER (PARTITION BY S.__onerow_key ORDER BY {oldest_staged_first})
FROM {staged} AS S
LEFT JOIN (
    SELECT {target_key} AS __onerow_key, GREATEST(MAX({version_of_target}), 0) AS latest
    FROM {target} AS T WHERE {touched} GROUP BY 1
) AS l ON l.__onerow_key = S.__onerow_key
WHERE S.__onerow_place = 1
    AND S.__onerow_content NOT IN (SELECT {target_content} FROM {target} AS T WHERE {touched});

-- name: refuse_unnumbered
SELECT IF(COUNTIF({version_of_target} IS NULL) = 0, NULL, 'onerow:verify:rows have no version;')
FROM {target} AS T WHERE {touched};

-- name: refuse_staged
-- Every staged content is there once.
SELECT CASE
    WHEN COUNT(*) <> (SELECT COUNT(*) FROM {staged} WHERE __onerow_place = 1)
        THEN CONCAT('onerow:verify:', CAST(COUNT(*) AS STRING), ' staged rows are in the table, not all;')
END
FROM (SELECT * FROM {staged} WHERE __onerow_place = 1) AS S
JOIN {target} AS T ON {touched} AND {target_content} = S.__onerow_content AND {same_key};
