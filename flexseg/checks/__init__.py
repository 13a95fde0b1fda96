"""`flexseg check`: a survey of a folder, its findings, copies across splits, the report. No TensorFlow."""
