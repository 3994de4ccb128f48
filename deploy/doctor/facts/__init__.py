"""What the checks look at: a subject a module, each with a value and the function that reads it."""
