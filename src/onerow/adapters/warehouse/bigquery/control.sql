-- Statements on the control tables. {guards} and {fences} belong to the target alone, {ledger} and {history} to all:
-- into these transactions only append, which conflicts with nothing.

-- name: check
-- Ends the script with the first refusal. {refusals} are queries of one text, NULL where nothing is wrong.
SELECT IF(refusal IS NULL, 'as it should be', ERROR(refusal)) FROM (SELECT COALESCE({refusals}) AS refusal) AS c;

-- name: claim
-- A statement of its own, before the transaction. It takes turns by documented rules: what changes a table waits for
-- transactions that change it. {mine} names this job; {ended} are jobs that are known to have ended, and this one. CASE
-- evaluates the branch that it takes alone:
-- https://cloud.google.com/bigquery/docs/reference/standard-sql/conditional_expressions
UPDATE {guards} SET claimed_by = CASE
    WHEN claimed_by NOT IN ({ended}) THEN ERROR(CONCAT('onerow:busy:', REPLACE(TO_JSON_STRING(claimed_by), ';', '\\u003b'), ';'))
    WHEN {locked} AND lock_store IS DISTINCT FROM {lock_store} THEN ERROR(CONCAT('onerow:lock_store:', REPLACE(TO_JSON_STRING(COALESCE(lock_store, '')), ';', '\\u003b'), ';'))
    ELSE {mine}
END
WHERE table_name = {name};

-- name: change_guard
-- Really changed: of two transactions that do so at once one is cancelled. The claim ends with the commit.
UPDATE {guards} SET attempt = attempt + 1, claimed_by = NULL, changed_by = {mine}
WHERE table_name = {name} AND claimed_by = {mine};

-- name: refuse_guard
SELECT CASE
    WHEN COUNT(*) <> 1 THEN CONCAT('onerow:guards:', CAST(COUNT(*) AS STRING), ';')
    WHEN COUNTIF(changed_by = {mine} AND claimed_by IS NULL) <> 1
        THEN 'onerow:conflict:the guard row was not changed exactly once;'
END
FROM {guards} WHERE table_name = {name};

-- name: refuse_tokens
SELECT CONCAT('onerow:stale:', CAST(MAX(f.token) AS STRING), ';')
FROM (SELECT `partition`, MAX(token) AS token FROM {fences} WHERE table_name = {name} GROUP BY `partition`) AS f
JOIN ({tokens}) AS h ON h.`partition` = f.`partition` WHERE f.token > h.token;

-- name: raise_fences
MERGE {fences} AS f USING ({tokens}) AS h ON f.table_name = {name} AND f.`partition` = h.`partition`
WHEN MATCHED THEN UPDATE SET token = GREATEST(f.token, h.token)
WHEN NOT MATCHED THEN INSERT (table_name, `partition`, token) VALUES ({name}, h.`partition`, h.token);

-- name: refuse_parts
SELECT CASE
    WHEN COUNTIF(l.part_id IS NOT NULL) = 0 THEN NULL
    WHEN COUNTIF(l.part_id IS NULL) = 0 THEN 'onerow:merged:;'
    ELSE CONCAT('onerow:outdated:', CAST(COUNTIF(l.part_id IS NOT NULL) AS STRING), ';')
END
FROM ({entries}) AS e
LEFT JOIN (
    SELECT DISTINCT part_id, COALESCE(`partition`, '') AS `partition` FROM {ledger}
    WHERE table_name = {name} AND batch = {batch}
) AS l ON l.part_id = e.part_id AND l.`partition` = e.`partition`;

-- name: insert_ledger
INSERT INTO {ledger} (table_name, `partition`, part_id, batch, consolidation, rows_staged)
SELECT {name}, {partition_or_null}, e.part_id, {batch}, {run}, e.rows_staged FROM ({entries}) AS e;

-- name: insert_history
INSERT INTO {history} (
    action, table_name, `partition`, batch, consolidation, attempt, token, unlocked, holder, parts, rows_staged,
    rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason, job,
    bytes_processed, slot_ms
)
SELECT {action}, {name}, {partition_or_null}, {batch}, {run}, {attempt}, e.token, {unlocked}, {holder}, e.parts,
    e.rows_staged, e.rows_inserted, e.rows_updated, e.rows_unchanged, e.rows_superseded, {merge_s}, {verify_s},
    CURRENT_TIMESTAMP(), {reason}, {mine}, {bytes_processed}, {slot_ms}
FROM ({counts}) AS e;

-- name: insert_cost
-- What the job of a script has cost is known only after its end. Nobody waits for this.
INSERT INTO {history} (
    action, table_name, batch, consolidation, attempt, unlocked, holder, parts, rows_staged, rows_inserted,
    rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason, job, bytes_processed, slot_ms
)
VALUES ('cost', @name, @batch, @run, @attempt, FALSE, @holder, 0, 0, 0, 0, 0, 0, 0.0, 0.0, CURRENT_TIMESTAMP(), '', @job,
    @bytes_processed, @slot_ms);

-- name: read_committed
SELECT COALESCE(`partition`, ''), action, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_superseded,
    merge_s, verify_s, bytes_processed, slot_ms
FROM {history} WHERE table_name = {name} AND consolidation = {run} AND attempt = {attempt};

-- name: read_fence
SELECT MAX(token) FROM {fences} WHERE table_name = {name} AND `partition` = {scope};

-- name: read_guard
SELECT lock_store, origin FROM {guards} WHERE table_name = @name;

-- name: read_merged
SELECT part_id, `partition` FROM {ledger} WHERE table_name = @name AND batch = @batch;

-- name: read_batches
SELECT batch, COUNT(DISTINCT part_id) FROM {ledger} WHERE table_name = @name GROUP BY batch;

-- name: read_inserted
SELECT `partition`, CAST(SUM(rows_inserted) AS INT64) FROM {history} WHERE table_name = @name AND action <> 'cost'
GROUP BY `partition`;

-- name: read_history
SELECT action, table_name, `partition`, batch, consolidation, attempt, token, unlocked, holder, parts, rows_staged,
    rows_inserted, rows_updated, rows_unchanged, rows_superseded, merge_s, verify_s, committed_at, reason,
    h.bytes_processed + COALESCE(c.bytes_processed, 0), h.slot_ms + COALESCE(c.slot_ms, 0)
FROM {history} AS h
LEFT JOIN (
    SELECT job, ANY_VALUE(bytes_processed) AS bytes_processed, ANY_VALUE(slot_ms) AS slot_ms FROM {history}
    WHERE action = 'cost' GROUP BY job
) AS c ON c.job = h.job
WHERE action <> 'cost' AND (@name IS NULL OR table_name = @name) AND (@batch IS NULL OR batch = @batch)
ORDER BY committed_at DESC, consolidation, `partition` LIMIT {limit};

-- name: read_only_batches
SELECT DISTINCT batch FROM {ledger} WHERE table_name = @name AND `partition` IS NOT DISTINCT FROM @partition LIMIT 2;

-- name: preview
SELECT (SELECT MAX(lock_store) FROM {guards} WHERE table_name = {name}),
    (SELECT MAX(token) FROM {fences} WHERE table_name = {name} AND `partition` = {scope});

-- name: fence_counts
SELECT {scope} AS `partition`, MAX(token) AS token, 0 AS parts, 0 AS rows_staged, 0 AS rows_inserted,
    0 AS rows_updated, 0 AS rows_unchanged, 0 AS rows_superseded
FROM {fences} WHERE table_name = {name} AND `partition` = {scope};
