-- Business keys of predictions that stand more than once, counted by date; no rows: none does.
-- Made of the view player_prop_predictions_duplicates of `onerow init`, which names each key and knows versions.
CREATE OR REPLACE VIEW nba_predictions.duplicate_predictions_monitor
OPTIONS (description = 'Duplicate predictions by date; no rows: there are none')
AS
SELECT
  game_date,
  COUNT(*) AS duplicate_keys,
  CAST(SUM(row_count - 1) AS INT64) AS extra_rows,
  MAX(newest) AS newest
FROM nba_predictions.player_prop_predictions_duplicates
GROUP BY game_date;
