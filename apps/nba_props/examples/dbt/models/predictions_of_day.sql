-- What a run of dbt has to hand over: the predictions of one day.
select *
from read_csv('{{ env_var("PREDICTIONS") }}', header = true)
