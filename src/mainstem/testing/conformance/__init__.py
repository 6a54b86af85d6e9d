"""Answers conformance vectors with the real code: `python -m mainstem.testing.conformance IN.json OUT.json`.

A vector is an input in the shape of RudderStack's transformer service; an answer is `{body}` or `{error}` under the
vector's id. What a vector expects is never read. Features: `user_transformation`; vectors of others stay unanswered.
"""
