{#
  Which person an id is: ids that are linked, over any number of steps, have one canonical id. That is the id of them
  which was received first, so it stays when others join, with its kind in front, as `anonymous:x` and `user:x` may be
  two people.
#}
{%- set rounds = var('mainstem_identity_rounds') %}
with
nodes as (
    select id_number, id_kind, id, excluded_because
    from {{ ref('identity_ids') }}
    where excluded_because is null or excluded_because <> 'placeholder'
)

, one_way as (
    select a.id_number as node, b.id_number as neighbour
    from {{ ref('identity_links') }} as links
    inner join nodes as a on a.id_kind = 'user' and links.user_id = a.id
    inner join nodes as b on links.other_kind = b.id_kind and links.other_id = b.id
    where a.excluded_because is null and b.excluded_because is null
)

, edges as (
    select node, neighbour from one_way
    union
    select neighbour, node from one_way
)

, labels_0 as (
    select id_number as node, id_number as label from nodes
)
{% for number in range(1, rounds + 1) %}
{{- propagation_round(number) }}
{%- endfor %}
, sizes as (
    select label, count(*) as ids
    from labels_{{ rounds }}
    group by label
)

-- Where a link still has two labels, the rounds were too few: nobody knows yet how large that component is.
, unsettled as (
    select distinct here.label
    from edges
    inner join labels_{{ rounds }} as here on edges.node = here.node
    inner join labels_{{ rounds }} as there on edges.neighbour = there.node
    where here.label <> there.label
)

, judged as (
    select
        labels.node
        , labels.label
        , sizes.ids
        , case
            when unsettled.label is not null then 'not settled'
            when sizes.ids > {{ var('mainstem_max_ids_of_a_person') }} then 'too many ids of a person'
        end as excluded_because
    from labels_{{ rounds }} as labels
    inner join sizes on labels.label = sizes.label
    left join unsettled on labels.label = unsettled.label
)

select
    nodes.id_kind
    , nodes.id
    , canonical.id_kind || ':' || canonical.id as canonical_id
    , cast(case when judged.excluded_because is null then judged.ids else 1 end as bigint) as ids_of_person
    , coalesce(nodes.excluded_because, judged.excluded_because) as excluded_because
    , cast(case when judged.excluded_because is not null then judged.ids end as bigint) as ids_linked
from judged
inner join nodes on judged.node = nodes.id_number
inner join nodes as canonical
    on canonical.id_number = case when judged.excluded_because is null then judged.label else judged.node end
