-- depends_on: {{ source('mainstem', 'screens') }}
{{ staged('screens') }}
