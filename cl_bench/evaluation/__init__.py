"""How good a method is: accuracy on every task, what it generates, and how sure the numbers are."""
