"""A trained model is used: `cl-bench evaluate`, `cl-bench predict`, `cl-bench export`."""
