"""`hotset decode`: a decode process over a tiered KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Decode prompts with a Hugging Face model whose KV cache is mostly not in fast memory.

Takes any Llama, Qwen, Mistral or SmolLM checkpoint folder or GGUF file; without --model the one of the demo.
While it runs, `hotset daemon` may come and go: which tokens come out does not depend on it.

Example: hotset decode --prompt "Why is the sky blue?" --max-new-tokens 64

Another example, where five prompts wait for two places behind a slow link:
hotset decode --prompt-file a.txt ... --prompt-file e.txt --max-running 2 --link-gbps 0.5

A third: hotset decode --model qwen2.5-0.5b/ --prompt-file a.txt --prompt-file b.txt --hbm-fraction 0.2
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("decode", help=HELP)(decode)


def decode(
    model: Annotated[Path | None, typer.Option(help="checkpoint folder or .gguf file [default: the demo's]")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="a prompt; may be repeated")] = None,
    prompt_file: Annotated[list[Path] | None, typer.Option(help="a file with a prompt; may be repeated")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens to decode for each prompt")] = 128,
    context: Annotated[int | None, typer.Option(min=16, help="cut prompts to this many tokens")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    top_p: Annotated[float, typer.Option(help="nucleus sampling")] = 1.0,
    top_k: Annotated[int, typer.Option(help="0 for all tokens")] = 0,
    seed: Annotated[int, typer.Option(help="of sampling; prompt i uses seed + i")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="go on after the end-of-text token")] = False,
    max_running: Annotated[
        int | None, typer.Option(min=1, help="prompts that decode at once; the others wait [default: all]")
    ] = None,
    share_prefix: Annotated[
        bool, typer.Option("--share-prefix/--no-share-prefix", help="prompts that begin alike share pages")
    ] = True,
    prefill_chunk: Annotated[int, typer.Option(help="tokens a prefill pass; whole passes can be shared")] = 512,
    hbm_fraction: Annotated[
        float, typer.Option(help="hot pool as a share of the KV; never less than decoding needs")
    ] = 0.25,
    hbm_pages: Annotated[int | None, typer.Option(help="hot pool in pages; overrides --hbm-fraction")] = None,
    host_pages: Annotated[int | None, typer.Option(help="host frames [default: room for everything]")] = None,
    disk_dir: Annotated[Path | None, typer.Option(help="keep what the host has no room for here")] = None,
    link_gbps: Annotated[
        float | None, typer.Option(help="slow the host link to this many GB/s [default: as fast as it is]")
    ] = None,
    link_latency_us: Annotated[float, typer.Option(help="of each transfer over the slowed link")] = 0.0,
    page_size: Annotated[int, typer.Option(help="tokens a page")] = 16,
    selected: Annotated[int, typer.Option(help="pages attended to per lane and step")] = 32,
    selector: Annotated[str, typer.Option(help="bounds (Quest) or mass (oracle)")] = "bounds",
    policy: Annotated[str, typer.Option(help="built-in policy: margin-ema, score-ema or lru")] = "margin-ema",
    lookahead: Annotated[str, typer.Option(help="layers to look ahead: off, 1 or 2")] = "off",
    lookahead_prefetch: Annotated[
        str, typer.Option(help="by a pushed model (learned), the bare first k, or off: ranks are only logged")
    ] = "learned",
    untiered: Annotated[bool, typer.Option("--untiered", help="keep everything in fast memory")] = False,
    check: Annotated[bool, typer.Option("--check", help="decode again untiered and compare all tokens")] = False,
    listen: Annotated[bool, typer.Option("--listen/--no-listen", help="let a daemon attach")] = True,
    listen_tcp: Annotated[str | None, typer.Option(help="at this tcp:// endpoint; needs --keys")] = None,
    keys: Annotated[Path | None, typer.Option(help="folder made by `hotset keys`, for --listen-tcp")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for steps.jsonl and decode.json")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda for the GPU backend in bfloat16")] = "cpu",
    graphs: Annotated[
        bool, typer.Option("--graphs/--no-graphs", help="on a GPU, replay whole steps from captured graphs")
    ] = True,
    run_ahead: Annotated[
        bool, typer.Option("--run-ahead/--no-run-ahead", help="on a GPU, launch a step before the last tokens are read")
    ] = True,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads, 0 for torch's default")] = 0,
    step_threads: Annotated[
        int | None, typer.Option(min=1, help="of them, those of a decode step [default: 1 of two, all of more]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """See HELP."""
    import json

    from rich.console import Console

    from hotset.ops import samples
    from hotset.ops.imports import large_imports
    from hotset.ops.listening import listening

    # Mistakes that can be told without loading anything large are told before it.
    texts, distance = _prompts(prompt or [], prompt_file or []), _distance(lookahead)
    where = listening(listen_tcp, keys) if listen else None
    with large_imports():
        from hotset.ops import decoding
        from hotset.runtime.sampling import Sampling

    job = decoding.Job(
        model=model or samples.embedded_model(),
        prompts=texts,
        max_new_tokens=max_new_tokens,
        context=context,
        config={
            "page_size": page_size,
            "selected": selected,
            "hbm_fraction": 1.0 if untiered else hbm_fraction,
            "hbm_pages": None if untiered else hbm_pages,
            "host_pages": host_pages,
            "disk_dir": disk_dir,
            "selector": selector,
            "policy": policy,
            "max_running": max_running,
            "share_prefix": share_prefix,
            "prefill_chunk": prefill_chunk,
            "graphs": graphs,
            "run_ahead": run_ahead,
            "step_threads": step_threads,
            "link_gbps": link_gbps,
            "link_latency_us": link_latency_us,
            "lookahead": distance,
            "lookahead_prefetch": lookahead_prefetch,
        },
        sampling=Sampling(temperature, top_p, top_k, seed),
        ignore_eos=ignore_eos,
        listen=where,
        check=check,
        out=out,
        threads=threads,
        device=device,
    )
    result = decoding.run(job, Console(stderr=True))
    if as_json:
        typer.echo(json.dumps(result))
        return
    for sequence in result["sequences"]:
        typer.echo(f"--- sequence {sequence['id']} ({sequence['prompt_tokens']} prompt tokens)\n{sequence['text']}")
    moved = result["moved"]
    typer.echo(
        f"--- {result['steps']} steps, {moved['accesses']} accesses, {moved['demand_pages']} demand misses "
        f"({moved['demand_pages'] / max(1, moved['accesses']):.1%}), {moved['moved_bytes'] / 1e6:.1f} MB moved"
    )
    if moved["shared_pages"]:
        typer.echo(f"pages shared instead of prefilled: {moved['shared_pages']}")
    decoded, seconds, stalled = result["decoded_tokens"], result["step_seconds"], result["stall_seconds"]
    if seconds:
        typer.echo(
            f"{decoded} tokens in steps of {seconds:.1f} s together: {decoded / seconds:.1f} tokens/s, "
            f"{stalled / seconds:.1%} of it waiting for the link, {result['max_running']} at once at most"
        )
    if "tokens_identical_to_untiered" in result:
        typer.echo(f"tokens identical to untiered: {result['tokens_identical_to_untiered']}")


def _distance(told: str) -> int:
    from hotset.protos.errors import ConfigError

    if told not in ("off", "1", "2"):
        raise ConfigError(f"--lookahead must be off, 1 or 2, not {told}")
    return 0 if told == "off" else int(told)


def _prompts(texts: list[str], files: list[Path]) -> list[str]:
    from hotset.protos.errors import ConfigError

    for file in files:
        try:
            texts = [*texts, file.read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the prompt file {file}: {error}") from error
    if not texts:
        raise ConfigError("nothing to decode; give --prompt TEXT or --prompt-file FILE")
    return texts
