"""Replicas of one model: strategy, all-reduce, decision, update. The only room that uses `tf.distribute`."""
