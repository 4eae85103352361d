"""Evaluation of flow and embeddings, beside baselines; every result is plain data, ready for JSON.

flow      end-point errors against ground truth
knn       nearest neighbours of the embeddings
linear    logistic regression on the embeddings
segment   a linear head on dense features
propagate the objects of a video's first frame followed to its end
agreement the embedding of a frame against the one that comes with its flow
"""
