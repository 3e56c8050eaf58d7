"""Times scikit-learn's and faiss's flat k-means on a matrix that `llmbs bench kmeans --out FILE.npy` wrote.

    kmeans.py FILE.npy K [ITERATIONS]

Prints a line for each: its name, seconds from the matrix in memory to a cluster for every row, and the mean squared
distance of a row to the centroid of its cluster. Their clusters are of any size; llmbs balances its own.
"""

import sys
import time

import numpy as np

path, k = sys.argv[1], int(sys.argv[2])
iterations = int(sys.argv[3]) if len(sys.argv) > 3 else 10
x = np.load(path)


def sklearn_kmeans():
    from sklearn.cluster import KMeans

    fitted = KMeans(k, init="k-means++", n_init=1, max_iter=iterations, tol=0, random_state=0).fit(x)
    return fitted.labels_, fitted.cluster_centers_


def sklearn_minibatch():
    from sklearn.cluster import MiniBatchKMeans

    fitted = MiniBatchKMeans(k, n_init=1, random_state=0).fit(x)
    return fitted.labels_, fitted.cluster_centers_


def faiss_kmeans():
    import faiss

    # Its own sample of 256 rows a cluster, as llmbs draws one.
    kmeans = faiss.Kmeans(x.shape[1], k, niter=iterations, seed=1, max_points_per_centroid=256)
    kmeans.train(x)
    return kmeans.index.search(x, 1)[1].ravel(), kmeans.centroids


def mean_squared_distance(labels, centers):
    rows = 100_000
    blocks = (x[i : i + rows] - centers[labels[i : i + rows]] for i in range(0, len(x), rows))
    return sum(float((block**2).sum(dtype=np.float64)) for block in blocks) / len(x)


for name, method in [
    ("sklearn.KMeans", sklearn_kmeans),
    ("sklearn.MiniBatchKMeans", sklearn_minibatch),
    ("faiss.Kmeans", faiss_kmeans),
]:
    start = time.perf_counter()
    labels, centers = method()
    seconds = time.perf_counter() - start
    print(f"{name} {seconds:.2f} {mean_squared_distance(labels, centers):.4f}", flush=True)
