"""Model cards: the template that saving renders, finished cards, and the handler of Inference Endpoints."""
