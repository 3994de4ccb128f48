"""The checks: pure functions from facts to findings, a subject a module. They read nothing."""
