-- depends_on: {{ source('mainstem', 'identifies') }}
{{ staged('identifies') }}
