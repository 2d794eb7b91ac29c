-- Looking at a table without changing it. {touched} are the rows that are looked at.

-- name: count_rows
SELECT {target_partition_or_null}, COUNT(*) FROM {target} AS T WHERE {touched} GROUP BY 1;

-- name: duplicates
SELECT {row_identity_texts}, d.n, d.ids, COUNT(*) OVER () AS all_keys, SUM(d.n) OVER () AS all_rows
FROM (
    SELECT {row_identity}, COUNT(*) AS n,
        ARRAY_TO_STRING(ARRAY_AGG(COALESCE({id}, '') ORDER BY {id} LIMIT 10), '\n') AS ids
    FROM (SELECT {looked_at} FROM {target} AS T WHERE {touched}) AS t
    GROUP BY {row_identity} HAVING COUNT(*) > 1
) AS d
ORDER BY {in_order} LIMIT {limit};

-- name: wandering_keys
-- Keys that stand in several partitions.
SELECT COUNT(*) FROM (
    SELECT 1 AS one FROM (SELECT {identity_of_target} FROM {target} AS T WHERE {touched}) AS t
    GROUP BY {business_key} HAVING COUNT(DISTINCT {partition}) > 1
) AS w;

-- name: broken_check
SELECT COUNT(*) FROM (SELECT {declared_of_target} FROM {target} AS T WHERE {touched}) AS t WHERE NOT {condition};

-- name: repeated_contents
-- Rows that agree with another one in every declared column, beyond one of each.
SELECT COALESCE(SUM(n - 1), 0) FROM (
    SELECT COUNT(*) AS n FROM {target} AS T WHERE {touched} GROUP BY {target_content} HAVING COUNT(*) > 1
) AS r;
