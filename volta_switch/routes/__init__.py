"""A trained Switch-BERT's routes on a task: what the switchers choose, a route's value, and attention maps."""
