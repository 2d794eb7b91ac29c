-- Predictions of points, one row for each player, game, system and line.
-- onerow keeps one row for each business key (game_id, player_lookup, system_id, current_points_line) of a date and
-- every version of it, numbered by prediction_version; player_prop_predictions_current has the newest.
-- The primary key is not that key: BigQuery demands that no column of one is NULL, and a line may be. Each prediction
-- has an identity of its own. The engine does not enforce it; it believes it.
CREATE TABLE IF NOT EXISTS nba_predictions.player_prop_predictions (
  prediction_id STRING NOT NULL OPTIONS (description = 'identity of the prediction'),
  game_date DATE NOT NULL OPTIONS (description = 'the partition: what is locked, merged and verified'),
  game_id STRING OPTIONS (description = 'business key'),
  player_lookup STRING OPTIONS (description = 'business key'),
  system_id STRING OPTIONS (description = 'business key'),
  current_points_line NUMERIC(6, 2) OPTIONS (description = 'business key, exact; NULL: there was no line'),
  predicted_points FLOAT64,
  confidence FLOAT64 OPTIONS (description = 'a share from 0 to 1'),
  recommendation STRING OPTIONS (description = 'OVER, UNDER, PASS or NO_LINE'),
  created_at TIMESTAMP OPTIONS (description = 'the newest prediction of a key wins'),
  prediction_version INT64 NOT NULL OPTIONS (description = 'number of the version, given by onerow'),
  PRIMARY KEY (game_date, prediction_id, prediction_version) NOT ENFORCED
)
PARTITION BY game_date
CLUSTER BY game_id, player_lookup, system_id, current_points_line
OPTIONS (description = 'Predictions of points, one row for each player, game, system and line');
