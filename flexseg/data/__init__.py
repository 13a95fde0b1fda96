"""Input pipeline: records, decoding, preprocessing, augmentation and batches, with `tf.data`. A batch is a pure function of seed and global step."""
