DECLARE onerow_rows_before INT64;
UPDATE `the-project`.`onerow`.`guards_o_neal_commit_transaction_x_61703e1c3b64ac0d` SET claimed_by = CASE
    WHEN claimed_by NOT IN ('o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext') THEN ERROR(CONCAT('onerow:busy:', REPLACE(TO_JSON_STRING(claimed_by), ';', '\\u003b'), ';'))
    WHEN TRUE AND lock_store IS DISTINCT FROM 'locks' THEN ERROR(CONCAT('onerow:lock_store:', REPLACE(TO_JSON_STRING(COALESCE(lock_store, '')), ';', '\\u003b'), ';'))
    ELSE 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext'
END
WHERE table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`';
BEGIN TRANSACTION;
UPDATE `the-project`.`onerow`.`guards_o_neal_commit_transaction_x_61703e1c3b64ac0d` SET attempt = attempt + 1, claimed_by = NULL, changed_by = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext'
WHERE table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`' AND claimed_by = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext';
SET onerow_rows_before = (
    SELECT IF(refusal IS NULL, rows_before, ERROR(refusal))
    FROM (SELECT COALESCE((
SELECT CASE
    WHEN COUNT(*) <> 1 THEN CONCAT('onerow:guards:', CAST(COUNT(*) AS STRING), ';')
    WHEN COUNTIF(changed_by = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext' AND claimed_by IS NULL) <> 1
        THEN 'onerow:conflict:the guard row was not changed exactly once;'
END
FROM `the-project`.`onerow`.`guards_o_neal_commit_transaction_x_61703e1c3b64ac0d` WHERE table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`'
), (
SELECT CONCAT('onerow:stale:', CAST(MAX(f.token) AS STRING), ';')
FROM (SELECT `partition`, MAX(token) AS token FROM `the-project`.`onerow`.`fences_o_neal_commit_transaction_x_61703e1c3b64ac0d` WHERE table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`' GROUP BY `partition`) AS f
JOIN (SELECT `partition` AS `partition`, `token` AS `token` FROM UNNEST([STRUCT('o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext' AS `partition`, 7 AS `token`)])) AS h ON h.`partition` = f.`partition` WHERE f.token > h.token
), (
SELECT CASE
    WHEN COUNTIF(l.part_id IS NOT NULL) = 0 THEN NULL
    WHEN COUNTIF(l.part_id IS NULL) = 0 THEN 'onerow:merged:;'
    ELSE CONCAT('onerow:outdated:', CAST(COUNTIF(l.part_id IS NOT NULL) AS STRING), ';')
END
FROM (SELECT __onerow_part AS part_id, `player` AS `partition`, COUNT(*) AS rows_staged
FROM `the-project`.`onerow`.`scratch_0123_staged` GROUP BY 1, 2) AS e
LEFT JOIN (
    SELECT DISTINCT part_id, COALESCE(`partition`, '') AS `partition` FROM `the-project`.`onerow`.`ledger`
    WHERE table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`' AND batch = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext'
) AS l ON l.part_id = e.part_id AND l.`partition` = e.`partition`
)) AS refusal, (SELECT COUNT(*) FROM `the-project`.`nba`.`props` AS T WHERE T.`player` = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext') AS rows_before) AS c
);
MERGE `the-project`.`onerow`.`fences_o_neal_commit_transaction_x_61703e1c3b64ac0d` AS f USING (SELECT `partition` AS `partition`, `token` AS `token` FROM UNNEST([STRUCT('o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext' AS `partition`, 7 AS `token`)])) AS h ON f.table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`' AND f.`partition` = h.`partition`
WHEN MATCHED THEN UPDATE SET token = GREATEST(f.token, h.token)
WHEN NOT MATCHED THEN INSERT (table_name, `partition`, token) VALUES ('o\'neal \\ "; COMMIT TRANSACTION; -- `x`', h.`partition`, h.token);
INSERT INTO `the-project`.`onerow`.`history` (
    action, table_name, `partition`, batch, consolidation, attempt, token, unlocked, holder, parts, rows_staged,
    rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason, job,
    bytes_processed, slot_ms
)
SELECT 'consolidate', 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`', `e`.`partition`, 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext', 'run1', 1, e.token, FALSE, 'me', e.parts,
    e.rows_staged, e.rows_inserted, e.rows_updated, e.rows_unchanged, e.rows_superseded, CAST(1.500000 AS FLOAT64), CAST(0.000000 AS FLOAT64),
    CURRENT_TIMESTAMP(), '', 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext', 4096, 70
FROM (SELECT c.`partition` AS `partition`, ANY_VALUE(h.token) AS token, ANY_VALUE(h.parts) AS parts,
    COUNT(*) AS rows_staged,
    COUNTIF(c.place = 1 AND c.newer IS NULL) AS rows_inserted,
    COUNTIF(c.place = 1 AND c.newer = 1) AS rows_updated,
    COUNTIF((c.place = 1 AND c.newer = 0) OR (c.place > 1 AND c.same AND COALESCE(c.newer, 1) >= 0)) AS rows_unchanged,
    COUNTIF((c.place = 1 AND c.newer = -1) OR (c.place > 1 AND NOT (c.same AND COALESCE(c.newer, 1) >= 0)))
        AS rows_superseded
FROM (
    SELECT S.`player` AS `partition`, S.__onerow_place AS place, S.__onerow_same AS same,
        IF(T.onerow_there IS NULL, NULL, (CASE WHEN S.`created_at` IS DISTINCT FROM T.`created_at` THEN IF(T.`created_at` IS NULL OR S.`created_at` > T.`created_at`, 1, -1) WHEN S.`id` IS DISTINCT FROM T.`id` THEN IF(T.`id` IS NULL OR S.`id` > T.`id`, 1, -1) WHEN S.`game_date` IS DISTINCT FROM T.`game_date` THEN IF(T.`game_date` IS NULL OR S.`game_date` > T.`game_date`, 1, -1) WHEN S.`points` IS DISTINCT FROM T.`points` THEN IF(T.`points` IS NULL OR S.`points` > T.`points`, 1, -1) WHEN S.`seen` IS DISTINCT FROM T.`seen` THEN IF(T.`seen` IS NULL OR S.`seen` > T.`seen`, 1, -1) ELSE 0 END)) AS newer
    FROM `the-project`.`onerow`.`scratch_0123_staged` AS S
    LEFT JOIN (
        SELECT T.`player` AS `player`, T.`line` AS `line`, T.`created_at` AS `created_at`, T.`id` AS `id`, T.`game_date` AS `game_date`, T.`points` AS `points`, T.`seen` AS `seen`, TO_JSON_STRING(STRUCT(T.`player` AS c0, T.`line` AS c1)) AS __onerow_key, TRUE AS onerow_there FROM `the-project`.`nba`.`props` AS T WHERE T.`player` = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext'
    ) AS T ON T.__onerow_key = S.__onerow_key AND T.`player` IS NOT DISTINCT FROM S.`player` AND T.`line` IS NOT DISTINCT FROM S.`line`
) AS c
JOIN (SELECT `partition` AS `partition`, `token` AS `token`, `parts` AS `parts` FROM UNNEST([STRUCT('o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext' AS `partition`, 7 AS `token`, 2 AS `parts`)])) AS h ON h.`partition` = c.`partition`
GROUP BY c.`partition`) AS e;
MERGE `the-project`.`nba`.`props` AS T
USING (SELECT * FROM `the-project`.`onerow`.`scratch_0123_staged` WHERE __onerow_place = 1) AS S
ON T.`player` = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext' AND TO_JSON_STRING(STRUCT(T.`player` AS c0, T.`line` AS c1)) = S.__onerow_key AND T.`player` IS NOT DISTINCT FROM S.`player` AND T.`line` IS NOT DISTINCT FROM S.`line`
WHEN MATCHED AND (CASE WHEN S.`created_at` IS DISTINCT FROM T.`created_at` THEN IF(T.`created_at` IS NULL OR S.`created_at` > T.`created_at`, 1, -1) WHEN S.`id` IS DISTINCT FROM T.`id` THEN IF(T.`id` IS NULL OR S.`id` > T.`id`, 1, -1) WHEN S.`game_date` IS DISTINCT FROM T.`game_date` THEN IF(T.`game_date` IS NULL OR S.`game_date` > T.`game_date`, 1, -1) WHEN S.`points` IS DISTINCT FROM T.`points` THEN IF(T.`points` IS NULL OR S.`points` > T.`points`, 1, -1) WHEN S.`seen` IS DISTINCT FROM T.`seen` THEN IF(T.`seen` IS NULL OR S.`seen` > T.`seen`, 1, -1) ELSE 0 END) = 1 THEN UPDATE SET `id` = S.`id`, `game_date` = S.`game_date`, `created_at` = S.`created_at`, `points` = S.`points`, `seen` = S.`seen` WHEN NOT MATCHED BY TARGET THEN INSERT (`id`, `game_date`, `player`, `line`, `created_at`, `points`, `seen`) VALUES (S.`id`, S.`game_date`, S.`player`, S.`line`, S.`created_at`, S.`points`, S.`seen`);
SELECT IF(refusal IS NULL, 'as it should be', ERROR(refusal)) FROM (SELECT COALESCE((
SELECT IF(COUNT(*) = 0, NULL, CONCAT('onerow:duplicates:', CAST(COUNT(*) AS STRING), ':',
    REPLACE(STRING_AGG(k, ',' ORDER BY k LIMIT 100), ';', '\\u003b'), ';'))
FROM (
    SELECT TO_JSON_STRING([`player`, FORMAT('%.2f', `line`), CAST(COUNT(*) AS STRING)]) AS k
    FROM (SELECT T.`player` AS `player`, T.`line` AS `line` FROM `the-project`.`nba`.`props` AS T WHERE T.`player` = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext') AS T
    GROUP BY `player`, `line` HAVING COUNT(*) > 1
) AS d
), (
SELECT CASE
    WHEN COUNT(*) <> (SELECT COUNT(*) FROM `the-project`.`onerow`.`scratch_0123_staged` WHERE __onerow_place = 1)
        THEN CONCAT('onerow:verify:', CAST(COUNT(*) AS STRING), ' staged keys are in the table, not all;')
    WHEN COUNTIF((CASE WHEN S.`created_at` IS DISTINCT FROM T.`created_at` THEN IF(T.`created_at` IS NULL OR S.`created_at` > T.`created_at`, 1, -1) WHEN S.`id` IS DISTINCT FROM T.`id` THEN IF(T.`id` IS NULL OR S.`id` > T.`id`, 1, -1) WHEN S.`game_date` IS DISTINCT FROM T.`game_date` THEN IF(T.`game_date` IS NULL OR S.`game_date` > T.`game_date`, 1, -1) WHEN S.`points` IS DISTINCT FROM T.`points` THEN IF(T.`points` IS NULL OR S.`points` > T.`points`, 1, -1) WHEN S.`seen` IS DISTINCT FROM T.`seen` THEN IF(T.`seen` IS NULL OR S.`seen` > T.`seen`, 1, -1) ELSE 0 END) = 1) > 0
        THEN CONCAT('onerow:verify:', CAST(COUNTIF((CASE WHEN S.`created_at` IS DISTINCT FROM T.`created_at` THEN IF(T.`created_at` IS NULL OR S.`created_at` > T.`created_at`, 1, -1) WHEN S.`id` IS DISTINCT FROM T.`id` THEN IF(T.`id` IS NULL OR S.`id` > T.`id`, 1, -1) WHEN S.`game_date` IS DISTINCT FROM T.`game_date` THEN IF(T.`game_date` IS NULL OR S.`game_date` > T.`game_date`, 1, -1) WHEN S.`points` IS DISTINCT FROM T.`points` THEN IF(T.`points` IS NULL OR S.`points` > T.`points`, 1, -1) WHEN S.`seen` IS DISTINCT FROM T.`seen` THEN IF(T.`seen` IS NULL OR S.`seen` > T.`seen`, 1, -1) ELSE 0 END) = 1) AS STRING), ' rows are older than a staged one;')
END
FROM (SELECT * FROM `the-project`.`onerow`.`scratch_0123_staged` WHERE __onerow_place = 1) AS S
JOIN `the-project`.`nba`.`props` AS T ON T.`player` = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext' AND TO_JSON_STRING(STRUCT(T.`player` AS c0, T.`line` AS c1)) = S.__onerow_key AND T.`player` IS NOT DISTINCT FROM S.`player` AND T.`line` IS NOT DISTINCT FROM S.`line`
), (
SELECT CASE
    WHEN COUNT(*) <> 1 OR COUNTIF(rows_staged <> rows_inserted + rows_updated + rows_unchanged + rows_superseded) > 0
        THEN 'onerow:verify:the counts do not add up;'
    WHEN @@row_count IS DISTINCT FROM SUM(rows_inserted + rows_updated)
        THEN 'onerow:verify:the merge has changed other rows than were counted;'
    WHEN (SELECT COUNT(*) FROM `the-project`.`nba`.`props` AS T WHERE T.`player` = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext') <> onerow_rows_before + SUM(rows_inserted)
        THEN 'onerow:verify:the table has other rows than were counted;'
END
FROM `the-project`.`onerow`.`history` AS h WHERE table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`' AND consolidation = 'run1' AND attempt = 1 AND action = 'consolidate'
    AND COALESCE(h.`partition`, '') IN ('o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext')
)) AS refusal) AS c;
INSERT INTO `the-project`.`onerow`.`ledger` (table_name, `partition`, part_id, batch, consolidation, rows_staged)
SELECT 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`', `e`.`partition`, e.part_id, 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`\nnext', 'run1', e.rows_staged FROM (SELECT __onerow_part AS part_id, `player` AS `partition`, COUNT(*) AS rows_staged
FROM `the-project`.`onerow`.`scratch_0123_staged` GROUP BY 1, 2) AS e;
COMMIT TRANSACTION;
SELECT COALESCE(`partition`, ''), action, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded,
    merge_s, verify_s, bytes_processed, slot_ms
FROM `the-project`.`onerow`.`history` WHERE table_name = 'o\'neal \\ "; COMMIT TRANSACTION; -- `x`' AND consolidation = 'run1' AND attempt = 1;
