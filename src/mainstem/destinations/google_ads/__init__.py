"""Google Ads: what its three destinations share. Not a destination itself.

* `api`: where the API is, who asks, what its answers say
* `people`: a person's identifiers as Google wants them: normalised, then hashed
"""
