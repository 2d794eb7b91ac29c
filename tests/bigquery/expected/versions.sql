DECLARE onerow_rows_before INT64;
UPDATE `the-project`.`onerow`.`guards_props_b264807709578e5c` SET claimed_by = CASE
    WHEN claimed_by NOT IN ('props run1.1 0123 #1', 'props run0.1 0123 #1') THEN ERROR(CONCAT('onerow:busy:', REPLACE(TO_JSON_STRING(claimed_by), ';', '\\u003b'), ';'))
    WHEN TRUE AND lock_store IS DISTINCT FROM 'locks' THEN ERROR(CONCAT('onerow:lock_store:', REPLACE(TO_JSON_STRING(COALESCE(lock_store, '')), ';', '\\u003b'), ';'))
    ELSE 'props run1.1 0123 #1'
END
WHERE table_name = 'props';
BEGIN TRANSACTION;
UPDATE `the-project`.`onerow`.`guards_props_b264807709578e5c` SET attempt = attempt + 1, claimed_by = NULL, changed_by = 'props run1.1 0123 #1'
WHERE table_name = 'props' AND claimed_by = 'props run1.1 0123 #1';
SET onerow_rows_before = (
    SELECT IF(refusal IS NULL, rows_before, ERROR(refusal))
    FROM (SELECT COALESCE((
SELECT CASE
    WHEN COUNT(*) <> 1 THEN CONCAT('onerow:guards:', CAST(COUNT(*) AS STRING), ';')
    WHEN COUNTIF(changed_by = 'props run1.1 0123 #1' AND claimed_by IS NULL) <> 1
        THEN 'onerow:conflict:the guard row was not changed exactly once;'
END
FROM `the-project`.`onerow`.`guards_props_b264807709578e5c` WHERE table_name = 'props'
), (
SELECT CONCAT('onerow:stale:', CAST(MAX(f.token) AS STRING), ';')
FROM (SELECT `partition`, MAX(token) AS token FROM `the-project`.`onerow`.`fences_props_b264807709578e5c` WHERE table_name = 'props' GROUP BY `partition`) AS f
JOIN (SELECT `partition` AS `partition`, `token` AS `token` FROM UNNEST([STRUCT('2026-01-17' AS `partition`, 7 AS `token`)])) AS h ON h.`partition` = f.`partition` WHERE f.token > h.token
), (
SELECT CASE
    WHEN COUNTIF(l.part_id IS NOT NULL) = 0 THEN NULL
    WHEN COUNTIF(l.part_id IS NULL) = 0 THEN 'onerow:merged:;'
    ELSE CONCAT('onerow:outdated:', CAST(COUNTIF(l.part_id IS NOT NULL) AS STRING), ';')
END
FROM (SELECT __onerow_part AS part_id, CAST(`game_date` AS STRING) AS `partition`, COUNT(*) AS rows_staged
FROM `the-project`.`onerow`.`scratch_0123_staged` GROUP BY 1, 2) AS e
LEFT JOIN (
    SELECT DISTINCT part_id, COALESCE(`partition`, '') AS `partition` FROM `the-project`.`onerow`.`ledger`
    WHERE table_name = 'props' AND batch = 'b1'
) AS l ON l.part_id = e.part_id AND l.`partition` = e.`partition`
)) AS refusal, (SELECT COUNT(*) FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)) AS rows_before) AS c
);
MERGE `the-project`.`onerow`.`fences_props_b264807709578e5c` AS f USING (SELECT `partition` AS `partition`, `token` AS `token` FROM UNNEST([STRUCT('2026-01-17' AS `partition`, 7 AS `token`)])) AS h ON f.table_name = 'props' AND f.`partition` = h.`partition`
WHEN MATCHED THEN UPDATE SET token = GREATEST(f.token, h.token)
WHEN NOT MATCHED THEN INSERT (table_name, `partition`, token) VALUES ('props', h.`partition`, h.token);
SELECT IF(refusal IS NULL, 'as it should be', ERROR(refusal)) FROM (SELECT COALESCE((
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:repeated:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([CAST(`game_date` AS STRING), `player`, FORMAT('%.2f', `line`), CAST(SUM(n) AS STRING)]) AS k
    FROM (
        SELECT `game_date`, `player`, `line`, COUNT(*) AS n
        FROM (
            SELECT T.`game_date` AS `game_date`, T.`player` AS `player`, T.`line` AS `line`, TO_JSON_STRING(STRUCT(T.`game_date` AS c0, T.`player` AS c1, T.`line` AS c2)) AS __onerow_key, TO_JSON_STRING(STRUCT(T.`id` AS c0, T.`game_date` AS c1, T.`player` AS c2, T.`line` AS c3, T.`created_at` AS c4, IF(T.`points` = 0, CAST(0 AS FLOAT64), T.`points`) AS c5, T.`seen` AS c6)) AS __onerow_content
            FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)
        ) AS T
        WHERE __onerow_key IN (SELECT __onerow_key FROM `the-project`.`onerow`.`scratch_0123_staged`)
        GROUP BY `game_date`, `player`, `line`, __onerow_content HAVING COUNT(*) > 1
    ) AS c
    GROUP BY `game_date`, `player`, `line`
) AS d
)) AS refusal) AS c;
INSERT INTO `the-project`.`onerow`.`history` (
    action, table_name, `partition`, batch, consolidation, attempt, token, unlocked, holder, parts, rows_staged,
    rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason, job,
    bytes_processed, slot_ms
)
SELECT 'consolidate', 'props', `e`.`partition`, 'b1', 'run1', 1, e.token, FALSE, 'me', e.parts,
    e.rows_staged, e.rows_inserted, e.rows_updated, e.rows_unchanged, e.rows_superseded, CAST(1.500000 AS FLOAT64), CAST(0.000000 AS FLOAT64),
    CURRENT_TIMESTAMP(), '', 'props run1.1 0123 #1', 4096, 70
FROM (SELECT c.`partition` AS `partition`, ANY_VALUE(h.token) AS token, ANY_VALUE(h.parts) AS parts,
    COUNT(*) AS rows_staged, COUNTIF(c.place = 1 AND NOT c.there) AS rows_inserted, 0 AS rows_updated,
    COUNTIF(c.place > 1 OR c.there) AS rows_unchanged, 0 AS rows_superseded
FROM (
    SELECT CAST(S.`game_date` AS STRING) AS `partition`, S.__onerow_place AS place,
        S.__onerow_content IN (SELECT TO_JSON_STRING(STRUCT(T.`id` AS c0, T.`game_date` AS c1, T.`player` AS c2, T.`line` AS c3, T.`created_at` AS c4, IF(T.`points` = 0, CAST(0 AS FLOAT64), T.`points`) AS c5, T.`seen` AS c6)) FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)) AS there
    FROM `the-project`.`onerow`.`scratch_0123_staged` AS S
) AS c
JOIN (SELECT `partition` AS `partition`, `token` AS `token`, `parts` AS `parts` FROM UNNEST([STRUCT('2026-01-17' AS `partition`, 7 AS `token`, 2 AS `parts`)])) AS h ON h.`partition` = c.`partition`
GROUP BY c.`partition`) AS e;
INSERT INTO `the-project`.`nba`.`props` (`id`, `game_date`, `player`, `line`, `created_at`, `points`, `seen`, `version`)
SELECT S.`id`, S.`game_date`, S.`player`, S.`line`, S.`created_at`, S.`points`, S.`seen`,
    COALESCE(l.latest, 0) + ROW_NUMBER() OVER (PARTITION BY S.__onerow_key ORDER BY S.`created_at` ASC, S.`id` ASC, S.`points` ASC, S.`seen` ASC)
FROM `the-project`.`onerow`.`scratch_0123_staged` AS S
LEFT JOIN (
    SELECT TO_JSON_STRING(STRUCT(T.`game_date` AS c0, T.`player` AS c1, T.`line` AS c2)) AS __onerow_key, GREATEST(MAX(T.`version`), 0) AS latest
    FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE) GROUP BY 1
) AS l ON l.__onerow_key = S.__onerow_key
WHERE S.__onerow_place = 1
    AND S.__onerow_content NOT IN (SELECT TO_JSON_STRING(STRUCT(T.`id` AS c0, T.`game_date` AS c1, T.`player` AS c2, T.`line` AS c3, T.`created_at` AS c4, IF(T.`points` = 0, CAST(0 AS FLOAT64), T.`points`) AS c5, T.`seen` AS c6)) FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE));
SELECT IF(refusal IS NULL, 'as it should be', ERROR(refusal)) FROM (SELECT COALESCE((
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:duplicates:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([CAST(`game_date` AS STRING), `player`, FORMAT('%.2f', `line`), CAST(`version` AS STRING), CAST(COUNT(*) AS STRING)]) AS k
    FROM (SELECT T.`game_date` AS `game_date`, T.`player` AS `player`, T.`line` AS `line`, T.`version` AS `version` FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)) AS T
    GROUP BY `game_date`, `player`, `line`, `version` HAVING COUNT(*) > 1
) AS d
), (
SELECT IF(COUNTIF(T.`version` IS NULL) = 0, NULL, 'onerow:verify:rows have no version;')
FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)
), (
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:repeated:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([CAST(`game_date` AS STRING), `player`, FORMAT('%.2f', `line`), CAST(SUM(n) AS STRING)]) AS k
    FROM (
        SELECT `game_date`, `player`, `line`, COUNT(*) AS n
        FROM (
            SELECT T.`game_date` AS `game_date`, T.`player` AS `player`, T.`line` AS `line`, TO_JSON_STRING(STRUCT(T.`game_date` AS c0, T.`player` AS c1, T.`line` AS c2)) AS __onerow_key, TO_JSON_STRING(STRUCT(T.`id` AS c0, T.`game_date` AS c1, T.`player` AS c2, T.`line` AS c3, T.`created_at` AS c4, IF(T.`points` = 0, CAST(0 AS FLOAT64), T.`points`) AS c5, T.`seen` AS c6)) AS __onerow_content
            FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)
        ) AS T
        WHERE __onerow_key IN (SELECT __onerow_key FROM `the-project`.`onerow`.`scratch_0123_staged`)
        GROUP BY `game_date`, `player`, `line`, __onerow_content HAVING COUNT(*) > 1
    ) AS c
    GROUP BY `game_date`, `player`, `line`
) AS d
), (
SELECT CASE
    WHEN COUNT(*) <> (SELECT COUNT(*) FROM `the-project`.`onerow`.`scratch_0123_staged` WHERE __onerow_place = 1)
        THEN CONCAT('onerow:verify:', CAST(COUNT(*) AS STRING), ' staged rows are in the table, not all;')
END
FROM (SELECT * FROM `the-project`.`onerow`.`scratch_0123_staged` WHERE __onerow_place = 1) AS S
JOIN `the-project`.`nba`.`props` AS T ON T.`game_date` = CAST('2026-01-17' AS DATE) AND TO_JSON_STRING(STRUCT(T.`id` AS c0, T.`game_date` AS c1, T.`player` AS c2, T.`line` AS c3, T.`created_at` AS c4, IF(T.`points` = 0, CAST(0 AS FLOAT64), T.`points`) AS c5, T.`seen` AS c6)) = S.__onerow_content AND T.`game_date` IS NOT DISTINCT FROM S.`game_date` AND T.`player` IS NOT DISTINCT FROM S.`player` AND T.`line` IS NOT DISTINCT FROM S.`line`
), (
SELECT CASE
    WHEN COUNT(*) <> 1 OR COUNTIF(rows_staged <> rows_inserted + rows_updated + rows_unchanged + rows_superseded) > 0
        THEN 'onerow:verify:the counts do not add up;'
    WHEN @@row_count IS DISTINCT FROM SUM(rows_inserted + rows_updated)
        THEN 'onerow:verify:the merge has changed other rows than were counted;'
    WHEN (SELECT COUNT(*) FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)) <> onerow_rows_before + SUM(rows_inserted)
        THEN 'onerow:verify:the table has other rows than were counted;'
END
FROM `the-project`.`onerow`.`history` AS h WHERE table_name = 'props' AND consolidation = 'run1' AND attempt = 1 AND action = 'consolidate'
    AND COALESCE(h.`partition`, '') IN ('2026-01-17')
)) AS refusal) AS c;
INSERT INTO `the-project`.`onerow`.`ledger` (table_name, `partition`, part_id, batch, consolidation, rows_staged)
SELECT 'props', `e`.`partition`, e.part_id, 'b1', 'run1', e.rows_staged FROM (SELECT __onerow_part AS part_id, CAST(`game_date` AS STRING) AS `partition`, COUNT(*) AS rows_staged
FROM `the-project`.`onerow`.`scratch_0123_staged` GROUP BY 1, 2) AS e;
COMMIT TRANSACTION;
SELECT COALESCE(`partition`, ''), action, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded,
    merge_s, verify_s, bytes_processed, slot_ms
FROM `the-project`.`onerow`.`history` WHERE table_name = 'props' AND consolidation = 'run1' AND attempt = 1;
