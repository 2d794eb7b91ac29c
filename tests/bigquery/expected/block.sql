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
JOIN (SELECT `partition` AS `partition`, `token` AS `token` FROM UNNEST([STRUCT('2026-01-17' AS `partition`, 9 AS `token`)])) AS h ON h.`partition` = f.`partition` WHERE f.token > h.token
)) AS refusal, (SELECT COUNT(*) FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)) AS rows_before) AS c
);
MERGE `the-project`.`onerow`.`fences_props_b264807709578e5c` AS f USING (SELECT `partition` AS `partition`, `token` AS `token` FROM UNNEST([STRUCT('2026-01-17' AS `partition`, 9 AS `token`)])) AS h ON f.table_name = 'props' AND f.`partition` = h.`partition`
WHEN MATCHED THEN UPDATE SET token = GREATEST(f.token, h.token)
WHEN NOT MATCHED THEN INSERT (table_name, `partition`, token) VALUES ('props', h.`partition`, h.token);
INSERT INTO nba.props (id, player) SELECT 'x', 'y';
SELECT IF(refusal IS NULL, 'as it should be', ERROR(refusal)) FROM (SELECT COALESCE((
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:duplicates:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([CAST(`game_date` AS STRING), `player`, FORMAT('%.2f', `line`), CAST(COUNT(*) AS STRING)]) AS k
    FROM (SELECT T.`game_date` AS `game_date`, T.`player` AS `player`, T.`line` AS `line` FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)) AS T
    GROUP BY `game_date`, `player`, `line` HAVING COUNT(*) > 1
) AS d
)) AS refusal) AS c;
INSERT INTO `the-project`.`onerow`.`history` (
    action, table_name, `partition`, batch, consolidation, attempt, token, unlocked, holder, parts, rows_staged,
    rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason, job,
    bytes_processed, slot_ms
)
SELECT 'guarded', 'props', `e`.`partition`, '', 'g-1', 1, e.token, FALSE, 'me', e.parts,
    e.rows_staged, e.rows_inserted, e.rows_updated, e.rows_unchanged, e.rows_superseded, CAST(0.000000 AS FLOAT64), CAST(0.000000 AS FLOAT64),
    CURRENT_TIMESTAMP(), 'backfill', 'props run1.1 0123 #1', NULL, NULL
FROM (SELECT '2026-01-17' AS `partition`, CAST(9 AS INT64) AS token, 0 AS parts, 0 AS rows_staged,
    COALESCE(NULL, (SELECT COUNT(*) FROM `the-project`.`nba`.`props` AS T WHERE T.`game_date` = CAST('2026-01-17' AS DATE)) - onerow_rows_before) AS rows_inserted,
    0 AS rows_updated, 0 AS rows_unchanged, 0 AS rows_superseded) AS e;
COMMIT TRANSACTION;
SELECT COALESCE(`partition`, ''), action, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded,
    merge_s, verify_s, bytes_processed, slot_ms
FROM `the-project`.`onerow`.`history` WHERE table_name = 'props' AND consolidation = 'g-1' AND attempt = 1;
