"""Traces: the spans of a request, made after the fact from times that are measured anyway.

`context` is W3C's words on the wire, `spans` what one sampled request leaves in one process,
`tracer` who decides and begins, `shared` work that several requests travel in, `export` the only
place that knows OpenTelemetry's SDK, `caller` the client's part.
Rule: a request that isn't sampled has no object of all this; code asks for `current_trace()`, gets
None, and goes on.
"""
