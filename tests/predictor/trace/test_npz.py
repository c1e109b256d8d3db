"""Import of npz traces: what the arrays say is what the log says; nothing broken or hostile gets in."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotset.predictor.trace import import_npz, read_trace
from hotset.predictor.trace.npz import MAX_BYTES
from hotset.protos.errors import TraceError

STEPS, LAYERS, HEADS, N, K = 6, 3, 2, 8, 4
Arrays = dict[str, Any]


def _arrays(seed: int = 0, *, lookahead: bool = True, **changes: object) -> Arrays:
    """A small trace: 40 tokens of prompt, pages of 4 tokens, candidates ascending."""
    rng = np.random.default_rng(seed)
    shape = (STEPS, LAYERS, HEADS)
    ids = np.sort(np.argsort(rng.random((*shape, 10)), axis=-1)[..., :N], axis=-1)
    chosen = np.argsort(rng.random((*shape, N)), axis=-1) < K
    meta = {"model": "m", "kind": "code", "prompt_tokens": 40, "steps": STEPS, "page": 4, "k": K}
    meta |= {"layers": LAYERS, "kv_heads": HEADS, "text": "..."}
    spec = rng.permuted(np.tile(np.arange(10, dtype=np.uint16), (STEPS, LAYERS, 2, HEADS, 1)), axis=-1)[..., :N]
    spec[:, 0] = 65535
    arrays: Arrays = {
        "did": np.diff(ids, axis=-1, prepend=0).astype(np.uint16),
        "sel": np.packbits(chosen, axis=-1),
        "score": rng.integers(0, 256, (*shape, N)).astype(np.uint8),
        "meta": np.array(json.dumps(meta | changes)),
    }
    return arrays | ({"spec": spec} if lookahead else {})


def _save(path: Path, arrays: Arrays) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def _refused(path: Path, what: str) -> None:
    target = path.with_name("target.parquet")
    with pytest.raises(TraceError, match=what) as caught:
        import_npz([path], target)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("target", ["log.parquet", "folder"])
def test_import_keeps_every_value(target: str, tmp_path: Path) -> None:
    sources = [_save(tmp_path / f"{seed}.npz", _arrays(seed)) for seed in range(3)]
    meta = import_npz(sources, tmp_path / target, token_bytes=10)
    found = read_trace(tmp_path / target)
    assert found.meta == meta
    assert (meta.page_bytes, meta.selected, meta.candidates) == (40, K, N)
    assert meta.prompt_tokens == {0: 40, 1: 40, 2: 40}
    for seed, sequence in enumerate(found.sequences):
        arrays = _arrays(seed)
        flat = (STEPS, LAYERS * HEADS, N)
        assert np.array_equal(sequence.pages, np.cumsum(arrays["did"].astype(np.int32), -1).reshape(flat))
        assert np.array_equal(sequence.selected, np.unpackbits(arrays["sel"], axis=-1).astype(bool).reshape(flat))
        assert np.array_equal(sequence.scores, arrays["score"].reshape(flat))
        assert sequence.lengths.tolist() == [41, 42, 43, 44, 45, 46]
        assert set(sequence.lookahead) == {1, 2}
        expected = arrays["spec"][:, :, 1].astype(np.int32).reshape(flat)
        assert np.array_equal(sequence.lookahead[2], np.where(expected == 65535, -1, expected))


def test_lookahead_only_where_all_sources_have_it(tmp_path: Path) -> None:
    sources = [_save(tmp_path / "a.npz", _arrays(0)), _save(tmp_path / "b.npz", _arrays(1, lookahead=False))]
    import_npz(sources, tmp_path / "log")
    assert all(not s.lookahead for s in read_trace(tmp_path / "log").sequences)


def test_length_is_read_off_the_newest_page(tmp_path: Path) -> None:
    """A recording that did not count the token being decoded has its newest page one step later."""
    for counted, first in ((1, 41), (0, 40)):
        arrays = _arrays(0, lookahead=False)
        ids = np.cumsum(arrays["did"].astype(np.int32), -1)
        newest = (40 + np.arange(STEPS) + counted - 1) // 4
        ids[..., :-1] = np.arange(N - 1)
        ids[..., -1] = newest[:, None, None]
        arrays["did"] = np.diff(ids, axis=-1, prepend=0).astype(np.uint16)
        arrays["sel"] |= 1
        arrays["sel"] &= 0b00001111
        path = _save(tmp_path / f"{counted}.npz", arrays)
        import_npz([path], tmp_path / f"{counted}.parquet")
        assert read_trace(tmp_path / f"{counted}.parquet").sequences[0].lengths[0] == first


def test_destination_is_not_overwritten(tmp_path: Path) -> None:
    source = _save(tmp_path / "a.npz", _arrays())
    import_npz([source], tmp_path / "log")
    with pytest.raises(TraceError, match="already there"):
        import_npz([source], tmp_path / "log")


def test_sources_of_different_geometry(tmp_path: Path) -> None:
    sources = [_save(tmp_path / "a.npz", _arrays()), _save(tmp_path / "b.npz", _arrays(k=5))]
    with pytest.raises(TraceError, match=r"b\.npz: selected is 5, but 4 in a\.npz"):
        import_npz(sources, tmp_path / "log")


@pytest.mark.parametrize("name", ["did", "sel", "score", "meta"])
def test_missing_array(name: str, tmp_path: Path) -> None:
    arrays = _arrays()
    del arrays[name]
    _refused(_save(tmp_path / "a.npz", arrays), f"array '{name}' is missing")


BROKEN: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "dtype": (lambda a: a.update(did=a["did"].astype(np.int64)), "'did' has dtype int64, expected uint16"),
    "float scores": (lambda a: a.update(score=a["score"] / 255), "'score' has dtype float64"),
    "dimensions": (lambda a: a.update(sel=a["sel"][0]), "'sel' has shape .* expected 4 dimensions"),
    "shape": (lambda a: a.update(score=a["score"][:, :2]), "score has shape"),
    "packed width": (lambda a: a.update(sel=a["sel"].repeat(2, -1)), "sel has shape"),
    "empty": (lambda a: a.update(did=a["did"][:0]), "none empty"),
    "lookahead": (lambda a: a.update(spec=a["spec"][:, :, :1]), "spec has shape"),
    "meta type": (lambda a: a.update(meta=np.array(3)), "'meta' has dtype int64, expected a string"),
    "meta text": (lambda a: a.update(meta=np.array("{nope")), "meta: : Invalid JSON|meta: "),
    "meta key": (lambda a: a.update(meta=np.array("{}")), "meta: prompt_tokens: Field required"),
    "page twice": (lambda a: a["did"].__setitem__((0, 0, 0, 3), 0), "named twice"),
    "page out of range": (lambda a: a["did"].__setitem__((2, 1, 1, 7), 60000), "lies beyond the end"),
    "lookahead out of range": (lambda a: a["spec"].__setitem__((2, 1, 0, 1, 7), 600), "lookahead_1: page 600"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_arrays(case: str, tmp_path: Path) -> None:
    arrays = _arrays()
    edit, what = BROKEN[case]
    edit(arrays)
    _refused(_save(tmp_path / "a.npz", arrays), what)


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"steps": 7}, "meta says 7 steps"), ({"k": 3}, "4 pages selected"), ({"prompt_tokens": -1}, "prompt_tokens")],
)
def test_meta_that_does_not_fit(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    _refused(_save(tmp_path / "a.npz", _arrays(0, lookahead=True, **changes)), what)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    arrays = _arrays() | {"score": np.array([_Bomb()], dtype=object)}
    np.savez(tmp_path / "a.npz", **arrays)
    _refused(tmp_path / "a.npz", "'score' holds pickled objects")


def _with_member(path: Path, name: str, header: dict[str, Any], body: bytes) -> Path:
    """An npz file whose member `name` has the header and body given."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, values in _arrays().items():
            raw = io.BytesIO()
            if other == name:
                np.lib.format.write_array_header_1_0(raw, header)
                raw.write(body)
            else:
                np.lib.format.write_array(raw, values)
            archive.writestr(f"{other}.npy", raw.getvalue())
    return path


def test_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that would unpack beyond the limit is refused by what it declares, before it is unpacked."""
    monkeypatch.setattr("hotset.predictor.trace.npz.MAX_BYTES", 1 << 16)
    assert MAX_BYTES > 1 << 30
    header = {"descr": "<u2", "fortran_order": False, "shape": (1 << 16, 1, 1, 1)}
    _refused(_with_member(tmp_path / "a.npz", "did", header, bytes(1 << 17)), "would unpack to 1[0-9]{5} bytes")


def test_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    header = {"descr": "<u2", "fortran_order": False, "shape": (1 << 40, LAYERS, HEADS, N)}
    _refused(_with_member(tmp_path / "a.npz", "did", header, b"1234"), "4 bytes do not fit shape")


def test_no_npz_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("hello")
    _refused(tmp_path / "a.npz", "not a readable npz file")
    _refused(tmp_path / "missing.npz", "no such file")
    with pytest.raises(TraceError, match="nothing to import"):
        import_npz([], tmp_path / "log")


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_damaged_bytes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cut or flipped: a TraceError, or (a flip in a field that nothing reads) the very same trace."""
    folder = tmp_path_factory.mktemp("npz")
    whole = _save(folder / "a.npz", _arrays()).read_bytes()
    raw = bytearray(whole[: data.draw(st.sampled_from([len(whole), data.draw(st.integers(0, len(whole)))]))])
    for at in data.draw(st.lists(st.integers(0, max(len(raw) - 1, 0)), max_size=3)) if raw else []:
        raw[at] ^= data.draw(st.integers(1, 255))
    (folder / "a.npz").write_bytes(raw)
    found = _import_if_whole(folder / "a.npz")
    if found is not None:
        expected = np.cumsum(_arrays()["did"].astype(np.int32), -1).reshape(found.shape)
        assert np.array_equal(found, expected)


def _import_if_whole(path: Path) -> Any:
    target = path.with_name("log.parquet")
    try:
        import_npz([path], target)
    except TraceError as error:
        if str(path) not in str(error):
            raise
        return None
    return read_trace(target).sequences[0].pages
