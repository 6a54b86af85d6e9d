-- depends_on: {{ source('mainstem', 'aliases') }}
{{ staged('aliases') }}
