"""The mapping kit: what destination modules are made of. Pure: no I/O, no clock, no state.

* `values`: reading values the way the peers' SDKs write them (JavaScript's truth, texts and numbers), hashes
* `times`: times in any spelling, and what vendors want of them
* `spec_fields`: where the Segment spec keeps a person's e-mail, name, phone …
* `table`: a mapping as a table of rows, compiled once
* `call`: from a request in parts to its bytes
* `batching`: several events in one request
* `dialogue`: mappings that have to look something up first
* `refuse`: how a mapping says no
* `user_agent`: browsers in the names that vendors use
* `body`, `paths`, `templates`, `wire`: bodies, JSONPath, templates, URLs and headers

A destination module imports from here and from `destinations.base`, never from another destination.
"""
