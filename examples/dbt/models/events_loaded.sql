{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='event_key',
    on_schema_change='append_new_columns',
) }}
{#
  Every event once, from all tables. Late events are new rows however old their time is, and a replayed event takes
  the place of its row: the loader stamps both with the time of their load (`uuid_ts`), and that is what the window
  goes by. It reaches back a few hours, as loads of several tables do not commit in the order in which they began.
#}
with
loaded as (
    {%- for table in event_tables() %}
    select * from {{ ref('stg_' ~ table) }}
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
)

, numbered as (
    select
        *
        , row_number() over (
            partition by event_type, source_id, event_id
            order by loaded_at desc, received_at desc, event_at desc
        ) as copy
    from loaded
    where
        event_id is not null
        and event_at is not null
        {%- if is_incremental() %}
        and loaded_at >= (
            select coalesce(max(loaded_at), cast('1970-01-01' as {{ type_of('time') }}))
            from {{ this }}
        ) - interval '{{ var("mainstem_lookback_hours") }} hours'
        {%- endif %}
)

select
    md5(event_type || ':' || coalesce(source_id, '') || ':' || event_id) as event_key
    , event_type
    {%- for name in event_columns('tracks') %}
    , {{ name }}
    {%- endfor %}
from numbered
where copy = 1
