"""Evaluation of flow and embeddings, beside baselines; every result is plain data, ready for JSON.

flow      end-point errors against ground truth
knn       nearest neighbours of the embeddings
linear    logistic regression on the embeddings
agreement the embedding of a frame against the one that comes with its flow
"""
