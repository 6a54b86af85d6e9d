{#
  One round of label propagation (FastSV: Zhang, Azad, Hu, SIAM PP20, https://doi.org/10.1137/1.9781611976137.5).

  A label is the number of an id of the same component and only falls. A node takes the smallest of its own label's
  label and of its neighbours' labels' labels, and hands that on to the node that its label names: chains halve with
  each round. Plain joins and one group by, where a recursive query would need UNION to end on cycles (Snowflake has
  only UNION ALL) and would hold every pair of ids of a person.
#}

{% macro propagation_round(number) %}
, jumped_{{ number }} as (
    select one.node, one.label, two.label as next_label
    from labels_{{ number - 1 }} as one
    inner join labels_{{ number - 1 }} as two on one.label = two.node
)

, across_{{ number }} as (
    select edges.node, here.label, min(there.next_label) as offered
    from edges
    inner join jumped_{{ number }} as here on edges.node = here.node
    inner join jumped_{{ number }} as there on edges.neighbour = there.node
    group by edges.node, here.label
)

, labels_{{ number }} as (
    select node, min(label) as label
    from (
        select node, next_label as label from jumped_{{ number }}
        union all
        select node, offered from across_{{ number }}
        union all
        select label, offered from across_{{ number }}
    ) as offers
    group by node
)
{% endmacro %}
