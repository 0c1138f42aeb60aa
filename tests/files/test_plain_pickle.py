"""Pickles with allowed content are read. No code in any other pickle is run."""

import pickle

import numpy as np
import pytest

from meanflow.files.plain_pickle import RefusedError, read_plain_pickle
from tests.metrics.malicious import Malicious

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def read(tmp_path):
    def write_and_read(content, protocol=4):
        packed = content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol)
        (tmp_path / "file.pkl").write_bytes(packed)
        return read_plain_pickle(tmp_path / "file.pkl")

    return write_and_read


class Calls:
    """Is unpickled as whatever a call returns, with a state set."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_content_comes_out_as_it_was(read, protocol):
    content = {"a": [1, -2.5, "text", True, {"b": []}], 3: {}, 1.5: 10**20}
    assert read(content, protocol) == content


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10.0)[::3],
        np.arange(3, dtype=">f4"),
        np.arange(3, dtype=np.float16),
        np.arange(-1, 2, dtype=np.int8),
        np.array([True, False]),
        np.array(1.5),
    ],
    ids=["C", "Fortran", "strided", "big-endian", "half", "int8", "bool", "scalar"],
)
def test_arrays_of_numbers_come_out_as_they_were(read, array, protocol):
    found = read([array, array], protocol)
    for copy in found:
        assert copy.dtype == array.dtype
        assert copy.shape == array.shape
        assert np.array_equal(copy, array)


def test_shared_containers_stay_shared(read):
    content = [[np.ones(1)]]
    content.append(content[0])
    content.append(content)
    found = read(content)
    assert found[0] is found[1]
    assert found[2] is found
    assert np.array_equal(found[1][0], np.ones(1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_commands_are_refused_and_not_executed(read, tmp_path, protocol):
    marker = tmp_path / "marker"
    malicious = Malicious(marker)
    for content in (malicious, {"a": [1, {"b": malicious}]}, [[malicious, np.ones(2)]]):
        with pytest.raises(RefusedError, match=r"file\.pkl is refused: it holds (posix|nt)\.system besides arrays of"):
            read(content, protocol)
    for objects in (np.array([malicious], dtype=object), np.array([(1.0, malicious)], dtype=[("a", "f8"), ("b", "O")])):
        with pytest.raises(RefusedError, match=r"it holds an array of '[OV]\d+' besides"):
            read({"a": objects}, protocol)
    assert not marker.exists()
    pickle.loads(pickle.dumps(malicious))
    assert marker.exists()  # the test would have seen it


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"c__builtin__\neval\n(V1+1\ntR.", "__builtin__.eval"),
        (Calls(eval, "1 + 1"), "builtins.eval"),
        (Calls(np.load, "file.npy", None, True), "numpy.load"),
        (np.float64(1), r"numpy\._core\.multiarray\.scalar"),
        (Calls(np.ndarray, (1,), "O", b"12345678"), r"a call of numpy\.ndarray"),
        (Calls(np.dtype, "O"), "an array of 'O'"),
        (Calls(np.dtype, "V8"), "an array of 'V8'"),
        (np.array(["text"]), "an array of 'U4'"),
        (np.array([1j]), "an array of 'c16'"),
        # A data type of numbers that says to be a record with references in it.
        (
            Calls(np.dtype, "f8", False, True, state=(3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 27)),
            "an array of 'O8'",
        ),
        (
            Calls(np.dtype, "f8", False, True, state=(3, "<", None, ("a",), {"a": (np.dtype("f8"), 0)}, 8, 1, 27)),
            "an array of records",
        ),
        (np.dtype("f8"), "a _Dtype"),
        (np.ndarray, "a function"),
        (np.ones(1).view(np.recarray), r"numpy(\.rec)?\.recarray"),
        ([(1, 2)], "a tuple"),
        ({(1, 2): 3}, "a tuple"),
        ([None], "a NoneType"),
        ([b"bytes"], "a bytes"),
        ([{1}], "a set"),
    ],
)
def test_anything_else_is_refused_and_named(read, content, name):
    with pytest.raises(RefusedError, match=rf"file\.pkl is refused: it holds {name} besides"):
        read(content)


def test_damage_is_named(read):
    for damaged in (b"", b"no pickle", pickle.dumps([np.ones(9)])[:-20]):
        with pytest.raises(ValueError, match=r"file\.pkl is truncated or no pickle"):
            read(damaged)
