"""A cluster on Ray: Serve launches, places, restarts and rolls our programs; no query goes by it.

`options` and `processes` say what runs, `app` binds it for Serve, `replica` is the actor around one
`supervisor`, `directory` knows the routers, and `launch` is what the `shoal` command calls. This is
the only package that imports ray, and only in `app`, `replica`, `directory`, `connection`, `launch`
and what builds on them.
"""
