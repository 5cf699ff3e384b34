"""`ollaswarm demo`: the main job end to end on one machine, in two acts, with a liar and a stranger who get nowhere."""
