"""Tables of the study of published scores."""
