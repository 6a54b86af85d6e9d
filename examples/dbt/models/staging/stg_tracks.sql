-- depends_on: {{ source('mainstem', 'tracks') }}
{{ staged('tracks') }}
