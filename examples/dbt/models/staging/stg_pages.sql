-- depends_on: {{ source('mainstem', 'pages') }}
{{ staged('pages') }}
