"""Import recorded npz traces (arrays did, sel, score, meta and, for lookahead, spec) into the trace log.

Nothing in a source is trusted: arrays are read without pickle, and only after the sizes that the archive
declares were found to be those of the arrays and within bounds.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hotset.predictor.trace.schema import LOOKAHEAD, PART_SUFFIX, list_column, schema
from hotset.predictor.trace.sequence import Int32, SequenceTrace, check_sequence
from hotset.predictor.trace.writer import write_tables
from hotset.protos.errors import TraceError
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta

MAX_BYTES = 2 << 30
"""Unpacked bytes that one source may hold, all arrays together."""
TOKEN_BYTES = 256
"""K and V bytes a token and lane of the recorded model: head dimension 64, 16 bits. Sources do not say."""
_NONE = np.iinfo(np.uint16).max
_DIMS = {"did": 4, "sel": 4, "score": 4, "spec": 5, "meta": 0}
_DTYPES = {"did": "<u2", "sel": "|u1", "score": "|u1", "spec": "<u2"}


class _NpzMeta(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str = ""
    kind: str = ""
    prompt_tokens: Annotated[int, Field(ge=0, lt=1 << 31)]
    steps: Annotated[int, Field(ge=1, lt=1 << 31)]
    page: Annotated[int, Field(ge=1, le=1 << 20)]
    k: Annotated[int, Field(ge=1, le=1 << 20)]
    layers: Annotated[int, Field(ge=1, le=4096)]
    kv_heads: Annotated[int, Field(ge=1, le=4096)]


class _Source(NamedTuple):
    path: Path
    meta: _NpzMeta
    trace: SequenceTrace


def import_npz(sources: list[Path], destination: Path, *, token_bytes: int = TOKEN_BYTES) -> TraceMeta:
    """Import each source as one sequence, numbered from 0 in the order given.

    `destination` becomes a single file if it ends in .parquet, else a folder with one part a source; it must
    not hold a trace yet. `token_bytes` are the K and V bytes of a token in one lane; page_bytes follows.
    Raises TraceError naming the source that is corrupt, or that does not share the geometry of the first.
    """
    if not sources:
        raise TraceError(f"{destination}: nothing to import; name at least one npz file")
    single = destination.suffix == PART_SUFFIX
    if destination.is_file() or any(destination.glob(f"*{PART_SUFFIX}")):
        raise TraceError(f"{destination}: already there; remove it or choose another destination")
    metas = [_trace_meta(read_npz(path, number), token_bytes) for number, path in enumerate(sources)]
    for path, meta in zip(sources, metas, strict=True):
        _check_same(path, meta, metas[0])
    merged = _merge(metas)
    lookahead = _common_lookahead(sources)
    tables = (_table(read_npz(path, number).trace, merged, lookahead) for number, path in enumerate(sources))
    if single:
        destination.parent.mkdir(parents=True, exist_ok=True)
        write_tables(destination, schema(merged, lookahead), tables)
        return merged
    destination.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables):
        write_tables(destination / f"part-{number:06d}{PART_SUFFIX}", schema(merged, lookahead), [table])
    return merged


def read_npz(path: Path, sequence: int = 0) -> _Source:
    """One source as a checked sequence."""
    arrays = _load(path)
    meta = _parse_meta(arrays["meta"], path)
    steps, layers, heads, n = arrays["did"].shape
    if (steps, layers, heads) != (meta.steps, meta.layers, meta.kv_heads):
        raise TraceError(
            f"{path}: did has shape {arrays['did'].shape}, but meta says {meta.steps} steps,"
            f" {meta.layers} layers, {meta.kv_heads} kv_heads"
        )
    expected: dict[str, tuple[int, ...]] = {
        "score": (steps, layers, heads, n),
        "sel": (steps, layers, heads, (n + 7) // 8),
    }
    if "spec" in arrays:
        expected["spec"] = (steps, layers, 2, heads, arrays["spec"].shape[-1])
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise TraceError(f"{path}: {name} has shape {arrays[name].shape}, expected {shape}")
    pages = np.cumsum(arrays["did"], axis=-1, dtype=np.int32).reshape(steps, layers * heads, n)
    selected = np.unpackbits(arrays["sel"], axis=-1)[..., :n].reshape(pages.shape)
    trace = SequenceTrace(
        sequence,
        meta.prompt_tokens,
        np.arange(steps, dtype=np.int32),
        _lengths(meta, pages, selected),
        np.arange(steps, dtype=np.int64),
        pages,
        arrays["score"].reshape(pages.shape),
        selected * np.uint8(AccessFlag.SELECTED),
        _ranks(arrays.get("spec")),
    )
    check_sequence(trace, _trace_meta(_Source(path, meta, trace), TOKEN_BYTES), path)
    return _Source(path, meta, trace)


def _lengths(meta: _NpzMeta, pages: Int32, selected: npt.NDArray[np.uint8]) -> Int32:
    """Tokens at each step: the prompt, one a step, and the token that is being decoded.

    The newest pages are always selected, so a recording that did not count the token being decoded shows
    itself by its newest page at every step.
    """
    counted = meta.prompt_tokens + np.arange(meta.steps, dtype=np.int32) + 1
    newest = np.where(selected != 0, pages, -1).max(axis=(1, 2))
    if bool((newest == (counted - 1) // meta.page).all()) or bool((newest != (counted - 2) // meta.page).any()):
        return counted
    return np.maximum(counted - 1, 1)


def _ranks(spec: npt.NDArray[np.uint16] | None) -> dict[int, Int32]:
    if spec is None:
        return {}
    pages = spec.astype(np.int32)
    pages[spec == _NONE] = -1
    steps, layers, _, heads, ranks = pages.shape
    return {early: pages[:, :, early - 1].reshape(steps, layers * heads, ranks) for early in (1, 2)}


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file, each checked for kind and size before it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = sorted(_DIMS.keys() - {"spec"} - members.keys())
            if missing:
                raise TraceError(f"{path}: array {missing[0]!r} is missing")
            known = {name: members[name] for name in _DIMS if name in members}
            total = sum(info.file_size for info in known.values())
            if total > MAX_BYTES:
                raise TraceError(f"{path}: would unpack to {total} bytes; the limit is {MAX_BYTES}")
            return {name: _load_array(archive, info, name, path) for name, info in known.items()}
    except FileNotFoundError:
        raise TraceError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise TraceError(f"{path}: not a readable npz file: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None


def _load_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path) -> npt.NDArray[Any]:
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            reader = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = reader(file)
        except (ValueError, KeyError, SyntaxError, TypeError) as error:
            raise TraceError(f"{path}: array {name!r}: bad header: {str(error)[:120]}") from None
        _check_array(name, shape, dtype, path)
        count = int(np.prod(shape, dtype=object))
        raw = file.read()
        if fortran or len(raw) != count * dtype.itemsize:
            raise TraceError(f"{path}: array {name!r}: {len(raw)} bytes do not fit shape {shape} of {dtype}")
    return np.frombuffer(raw, dtype).reshape(shape)


def _check_array(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    if dtype.hasobject:
        raise TraceError(f"{path}: array {name!r} holds pickled objects, which are never loaded")
    if name == "meta" and dtype.kind != "U":
        raise TraceError(f"{path}: array 'meta' has dtype {dtype}, expected a string")
    if name != "meta" and dtype != np.dtype(_DTYPES[name]):
        raise TraceError(f"{path}: array {name!r} has dtype {dtype}, expected {np.dtype(_DTYPES[name])}")
    if len(shape) != _DIMS[name] or 0 in shape:
        raise TraceError(f"{path}: array {name!r} has shape {shape}, expected {_DIMS[name]} dimensions, none empty")


def _parse_meta(raw: npt.NDArray[Any], path: Path) -> _NpzMeta:
    try:
        return _NpzMeta.model_validate_json(str(raw[()]))
    except (ValidationError, UnicodeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise TraceError(f"{path}: meta is no readable text") from None
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TraceError(f"{path}: meta: {where}: {first['msg']}") from None


def _trace_meta(source: _Source, token_bytes: int) -> TraceMeta:
    meta, trace = source.meta, source.trace
    return TraceMeta(
        model=meta.model,
        kind=meta.kind,
        layers=meta.layers,
        kv_heads=meta.kv_heads,
        page_size=meta.page,
        selected=meta.k,
        candidates=trace.pages.shape[-1],
        page_bytes=meta.page * token_bytes,
        prompt_tokens={trace.sequence: meta.prompt_tokens},
        source=source.path.name,
    )


def _check_same(path: Path, meta: TraceMeta, first: TraceMeta) -> None:
    for key in ("model", "layers", "kv_heads", "page_size", "selected", "candidates"):
        if getattr(meta, key) != getattr(first, key):
            raise TraceError(
                f"{path}: {key} is {getattr(meta, key)!r}, but {getattr(first, key)!r} in {first.source};"
                " import them to separate destinations"
            )


def _merge(metas: list[TraceMeta]) -> TraceMeta:
    return metas[0].model_copy(
        update={
            "kind": ",".join(dict.fromkeys(m.kind for m in metas)),
            "source": ",".join(m.source for m in metas),
            "prompt_tokens": {s: p for m in metas for s, p in m.prompt_tokens.items()},
        }
    )


def _common_lookahead(sources: list[Path]) -> tuple[int, ...]:
    """Distances that every source has; a log has the same columns in all its parts."""
    for path in sources:
        with zipfile.ZipFile(path) as archive:
            if "spec.npy" not in archive.namelist():
                return ()
    return (1, 2)


def _table(trace: SequenceTrace, meta: TraceMeta, lookahead: tuple[int, ...]) -> Any:
    steps, lanes, _ = trace.pages.shape
    arrow_schema = schema(meta, lookahead)
    lane = np.tile(np.arange(lanes), steps)
    scalars = {
        "sequence": np.full(steps * lanes, trace.sequence),
        "step": np.repeat(trace.steps, lanes),
        "epoch": np.repeat(trace.epochs, lanes),
        "length": np.repeat(trace.lengths, lanes),
        "layer": lane // meta.kv_heads,
        "head": lane % meta.kv_heads,
    }
    lists: dict[str, npt.NDArray[Any]] = {"pages": trace.pages, "scores": trace.scores, "flags": trace.flags}
    lists |= {name: trace.lookahead[early] for name, early in LOOKAHEAD.items() if early in lookahead}
    arrays = [
        list_column(lists[f.name].reshape(steps * lanes, -1), f.type)
        if f.name in lists
        else pa.array(scalars[f.name].astype(f.type.to_pandas_dtype()), type=f.type)
        for f in arrow_schema
    ]
    return pa.Table.from_arrays(arrays, schema=arrow_schema)
