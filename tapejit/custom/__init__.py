"""What users add to the table of operations: rules, compiled kernels, calls of Python."""
