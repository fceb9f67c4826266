"""What a trained Switch-BERT's switchers do on a task, what a route is worth, and where attention goes."""
