-- depends_on: {{ source('mainstem', 'groups') }}
{{ staged('groups') }}
