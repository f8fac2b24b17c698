"""The sample set: a small category in the MVTec AD layout, drawn from nothing but a seed."""
