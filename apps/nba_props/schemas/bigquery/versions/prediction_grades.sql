-- Grades of predictions after the games, one row for each prediction.
-- onerow keeps one row for each business key (game_id, player_lookup, system_id, current_points_line) of a date and
-- every version of it, numbered by grade_version; prediction_grades_current has the newest.
-- The primary key is not that key: BigQuery demands that no column of one is NULL, and a line may be. Each prediction
-- has an identity of its own. The engine does not enforce it; it believes it.
CREATE TABLE IF NOT EXISTS nba_predictions.prediction_grades (
  prediction_id STRING NOT NULL OPTIONS (description = 'identity of the prediction'),
  game_date DATE NOT NULL OPTIONS (description = 'the partition: what is locked, merged and verified'),
  game_id STRING OPTIONS (description = 'business key'),
  player_lookup STRING OPTIONS (description = 'business key'),
  system_id STRING OPTIONS (description = 'business key'),
  current_points_line NUMERIC(6, 2) OPTIONS (description = 'business key, exact; NULL: there was no line'),
  predicted_points FLOAT64,
  confidence FLOAT64 OPTIONS (description = 'a share from 0 to 1'),
  recommendation STRING OPTIONS (description = 'OVER, UNDER, PASS or NO_LINE'),
  actual_points INT64 OPTIONS (description = 'NULL: did not play'),
  absolute_error FLOAT64 OPTIONS (description = 'points'),
  signed_error FLOAT64 OPTIONS (description = 'points; above 0: predicted too many'),
  is_correct BOOL OPTIONS (description = 'NULL: no line, pass, push, or did not play'),
  return_units FLOAT64 OPTIONS (description = 'of one unit staked at -110; NULL: no bet'),
  graded_at TIMESTAMP NOT NULL OPTIONS (description = 'the newest grade of a key wins'),
  grade_version INT64 NOT NULL OPTIONS (description = 'number of the version, given by onerow'),
  PRIMARY KEY (game_date, prediction_id, grade_version) NOT ENFORCED
)
PARTITION BY game_date
CLUSTER BY game_id, player_lookup, system_id, current_points_line
OPTIONS (description = 'Grades of predictions after the games, one row for each prediction');
