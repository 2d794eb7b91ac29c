-- Fails where the consolidation did, where the check found something, and where it could not look.
select *
from {{ ref('consolidated') }}
where
    status not in ('committed', 'already_merged', 'nothing_staged')
    or duplicate_keys is distinct from 0
    or findings is distinct from 0
