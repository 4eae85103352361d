"""Frame search: against a matrix product, the gap, and files that are not what they should be."""

import numpy as np
import pytest
from mcjepa_client import InputError, Match, nearest

pa = pytest.importorskip("pyarrow", reason="the extra mcjepa-client[video] is not installed")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)


@pytest.fixture
def write(tmp_path):
    """Writes vectors (N, D) as the embeddings of a video with 10 frames a second, every second one taken."""

    def to(name, vectors, kind=None, **columns):
        rows = [None if row is None else np.asarray(row) for row in vectors]
        table = {
            "frame": np.arange(len(rows)) * 2,
            "timestamp": np.arange(len(rows)) / 4,
            "vector": pa.array(rows, kind or pa.list_(pa.float64())),
            **columns,
        }
        path = tmp_path / name
        pq.write_table(pa.table({key: value for key, value in table.items() if value is not None}), path)
        return path

    return to


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 16), pa.list_(pa.float16())])
def test_it_is_the_order_of_the_cosines(write, kind):
    vectors = RNG.normal(size=(9000, 16)).astype(np.float16)  # more than is read at a time
    query = RNG.normal(size=16)
    path = write("a.parquet", vectors, kind)
    cosines = unit(vectors.astype(float)) @ unit(query)
    order = np.argsort(-cosines)[:7]
    found = nearest(path, 3.5 * query, k=7)
    assert [match.frame for match in nearest(str(path), query, k=7)] == (2 * order).tolist()
    assert [match.frame for match in found] == (2 * order).tolist()
    assert [match.timestamp for match in found] == pytest.approx(order / 4)
    assert [match.similarity for match in found] == pytest.approx(cosines[order], abs=1e-6)
    assert {match.path for match in found} == {path}


def test_frames_that_are_near_in_time_do_not_fill_the_answer(write):
    """Alike in two places: rows 10 to 14 and, a little less, 30 to 34."""
    vectors = np.tile([0.0, 1], (50, 1))
    vectors[10:15] = [[1, 0.2], [1, 0.1], [1, 0], [1, 0.1], [1, 0.2]]
    vectors[30:35] = [[1, 0.4], [1, 0.3], [1, 0.35], [1, 0.3], [1, 0.4]]
    path = write("a.parquet", vectors)
    assert [match.frame for match in nearest(path, [1, 0], k=2)] == [24, 22]
    assert [match.frame for match in nearest(path, [1, 0], k=2, min_gap=2)] == [24, 62]
    # A gap as long as the distance is enough: rows 12 and 10 are 0.5 s apart.
    assert [match.frame for match in nearest(path, [1, 0], k=2, min_gap=0.5)] == [24, 20]


def test_several_videos_are_searched_together_and_the_gap_holds_within_each(write):
    first, second = (
        write("a.parquet", [[1, 0], [1, 0.1], [0, 1]]),
        write("b.parquet", [[1, 0.05], [0, 1], [1, 1]]),
    )
    found = nearest([first, second], [1, 0], k=3, min_gap=0.3)
    assert [(match.path, match.frame) for match in found] == [(first, 0), (second, 0), (second, 4)]
    assert found[0] == Match(first, 0, 0.0, 1.0)


def test_there_may_be_fewer_than_asked_for(write):
    assert nearest([], [1, 0]) == []
    assert len(nearest(write("a.parquet", [[1, 0], [0, 1]]), [1, 0], k=5)) == 2
    assert len(nearest(write("a.parquet", [[1, 0], [0, 1]]), [1, 0], k=5, min_gap=9)) == 1
    assert nearest(write("a.parquet", np.empty((0, 2))), [1, 0]) == []


def test_vectors_without_a_direction_are_never_found_first(write):
    path = write("a.parquet", [[np.nan, 0], [np.inf, 1], [0, 0], [-1, 0.1]])
    assert [match.frame for match in nearest(path, [1, 0])] == [4, 6]


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ([1, 0, 0], {}, "query: it has 3 numbers, the vectors of .*a.parquet have 2"),
        ([[1, 0]], {}, r"query: expected numbers of shape \(D,\), got int64 \(1, 2\)"),
        (["a", "b"], {}, "query: expected numbers"),
        ([0, 0], {}, "query: it has no direction"),
        ([1, np.nan], {}, "query: it has no direction"),
        ([1, 0], {"k": 0}, "k: expected a whole number above 0, got 0"),
        ([1, 0], {"k": 1.5}, "k: expected"),
        ([1, 0], {"min_gap": -1}, "min_gap: expected 0 s or more, got -1"),
        ([1, 0], {"min_gap": np.nan}, "min_gap"),
    ],
)
def test_bad_questions_are_refused(write, query, options, message):
    path = write("a.parquet", [[1, 0], [0, 1]])
    with pytest.raises(InputError, match=message):
        nearest(path, query, **options)


def test_files_that_are_none_are_refused_by_name(write, tmp_path):
    (tmp_path / "text.parquet").write_text("no Parquet")
    for path, message in [
        (tmp_path / "none.parquet", "none.parquet"),
        (tmp_path / "text.parquet", "text.parquet"),
        (write("b.parquet", [[1, 0]], vector=None), "b.parquet has no column vector"),
        (write("c.parquet", [[1, 0], None]), "c.parquet has rows without a vector"),
        (write("d.parquet", [[1, 0], [1, 0, 0]]), "different lengths"),
    ]:
        with pytest.raises(InputError, match=message):
            nearest(path, [1, 0])
