{#
  Of the people who came first in a week (Monday to Sunday, UTC), how many came again so many weeks later. Weeks in
  which nobody of them came have no row.
#}
with
weeks as (
    select distinct canonical_id, cast(date_trunc('week', {{ utc_date('started_at') }}) as date) as week
    from {{ ref('sessions') }}
)

, cohorts as (
    select canonical_id, min(week) as cohort_week
    from weeks
    group by canonical_id
)

, sizes as (
    select cohort_week, count(*) as people
    from cohorts
    group by cohort_week
)

select
    cohorts.cohort_week
    , cast((weeks.week - cohorts.cohort_week) / 7 as bigint) as weeks_later
    , count(*) as people_back
    , max(sizes.people) as people
    , cast(count(*) as double precision) / max(sizes.people) as retention
from weeks
inner join cohorts on weeks.canonical_id = cohorts.canonical_id
inner join sizes on cohorts.cohort_week = sizes.cohort_week
group by cohorts.cohort_week, cast((weeks.week - cohorts.cohort_week) / 7 as bigint)
