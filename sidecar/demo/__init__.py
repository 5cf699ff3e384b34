"""`ollaswarm demo`: the main job end to end on one machine, with two sidecars, and a liar who gets nowhere."""
