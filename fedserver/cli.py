"""The `fedserver` command: one session of a federation, or the whole demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from click.core import ParameterSource

from fedclient.settings import ALL_LINEAR, LocalError, LoraSettings, TrainingSettings
from keys.console import new_app, notice, run
from keys.errors import KeyFileError

if TYPE_CHECKING:
    from fedserver.plan import Plan

app = new_app("Aggregate what the sites of a consortium train, without seeing any site's update.")

EPILOG: Final = (
    "Example: fedserver --secagg masked --roster roster.json --keys ./server --model ./base --rounds 10 "
    "--listen 0.0.0.0:8443 --out ./out"
)
LAST_PORT: Final = 65535
STATE: Final = "state"  # as in fedserver.app, which loads Flower
DEFAULT_LISTEN: Final = "127.0.0.1:8443"
_SITES, _LORA, _TRAINING, _QUANTISING = "Sites", "LoRA", "Training (the same at every site)", "Quantising"


@app.callback(invoke_without_command=True, epilog=EPILOG)
def fedserver(
    context: typer.Context,
    secagg: Annotated[
        str,
        typer.Option(
            help="How updates are protected: masked; ckks (the server does not see the sum either); "
            "ckks-shared (simple: one key at every site, safe while no site helps the server)."
        ),
    ] = "masked",
    server_reads_sum: Annotated[
        bool, typer.Option("--server-reads-sum", help="With ckks: the server opens each sum, as in masked mode.")
    ] = False,
    shared_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With ckks-shared: what `fedkeys ckks-shared new` made at a site."),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Run four sites and a server on this machine.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the session in --out.")] = False,
    roster: Annotated[Path | None, typer.Option(help="The roster that the root signed.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="The server's folder, of `fedkeys server init` and `fedkeys tls`.")
    ] = None,
    model: Annotated[str, typer.Option(help="The base model as sites know it: a path or a hub id.")] = "",
    rounds: Annotated[int, typer.Option(help="How many rounds to run.")] = 10,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where sites connect [default: 127.0.0.1:8443, or as before].")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Where journal, checkpoint and adapter go.")] = None,
    min_sites: Annotated[int, typer.Option(help="Begin with this many; 0 = all.", rich_help_panel=_SITES)] = 0,
    colluders: Annotated[
        int, typer.Option(help="Sites that may work with the server; -1 = a third.", rich_help_panel=_SITES)
    ] = -1,
    dropouts: Annotated[
        int, typer.Option(help="Sites that may vanish; -1 = as many as can be borne.", rich_help_panel=_SITES)
    ] = -1,
    phase_timeout: Annotated[
        float, typer.Option(help="Seconds a site has for one answer.", rich_help_panel=_SITES)
    ] = 60.0,
    load_timeout: Annotated[
        float, typer.Option(help="Seconds a site has to fetch and load the model.", rich_help_panel=_SITES)
    ] = 1800.0,
    train_timeout: Annotated[
        float, typer.Option(help="Seconds a site has to train one round.", rich_help_panel=_SITES)
    ] = 3600.0,
    join_timeout: Annotated[float, typer.Option(help="Seconds to wait for the sites.", rich_help_panel=_SITES)] = 600.0,
    rank: Annotated[int, typer.Option(rich_help_panel=_LORA)] = 8,
    alpha: Annotated[int, typer.Option(rich_help_panel=_LORA)] = 16,
    target_modules: Annotated[
        str, typer.Option(help="all-linear, or names with commas.", rich_help_panel=_LORA)
    ] = ALL_LINEAR,
    dropout: Annotated[float, typer.Option(help="LoRA dropout.", rich_help_panel=_LORA)] = 0.0,
    learning_rate: Annotated[float, typer.Option(rich_help_panel=_TRAINING)] = 1e-2,
    learning_rate_decay: Annotated[float, typer.Option(help="Factor per round.", rich_help_panel=_TRAINING)] = 0.85,
    local_epochs: Annotated[int, typer.Option(rich_help_panel=_TRAINING)] = 1,
    local_steps: Annotated[int, typer.Option(help="Steps per round; 0 = by epochs.", rich_help_panel=_TRAINING)] = 0,
    batch_size: Annotated[int, typer.Option(rich_help_panel=_TRAINING)] = 8,
    sequence_length: Annotated[int, typer.Option(rich_help_panel=_TRAINING)] = 256,
    max_blocks: Annotated[int, typer.Option(help="Most blocks of one epoch; 0 = all.", rich_help_panel=_TRAINING)] = 0,
    seed: Annotated[int, typer.Option(rich_help_panel=_TRAINING)] = 0,
    bits: Annotated[int, typer.Option(min=4, max=20, help="Bits of one value.", rich_help_panel=_QUANTISING)] = 8,
    weight_cap: Annotated[
        int, typer.Option(min=1, help="Largest weight of a site; 1 = equal.", rich_help_panel=_QUANTISING)
    ] = 1,
    examples_per_weight: Annotated[
        int, typer.Option(help="Examples that count as weight 1; 0 = equal.", rich_help_panel=_QUANTISING)
    ] = 0,
    rotate: Annotated[bool, typer.Option(help="Hadamard rotation.", rich_help_panel=_QUANTISING)] = True,
    keep_vectors: Annotated[
        int, typer.Option(help="Rounds whose masked vectors stay on disk for verify-round; -1 = all.")
    ] = -1,
    clip_norm: Annotated[
        float, typer.Option(help="L2 bound of an update; 0 = none.", rich_help_panel=_QUANTISING)
    ] = 0.0,
    first_range: Annotated[
        float, typer.Option(help="Range of round 1; 0 = by Adam's bound.", rich_help_panel=_QUANTISING)
    ] = 0.0,
) -> None:
    """Wait for the sites of the roster, run the rounds, and write the adapter."""
    if context.invoked_subcommand is not None:
        _require_alone(context, context.invoked_subcommand, set())
        return
    from secagg.errors import Refused
    from secagg.schemes import scheme_named

    try:
        scheme_named(secagg)
    except Refused as error:
        raise typer.BadParameter(str(error), param_hint="--secagg") from None
    if demo:
        _require_alone(context, "--demo", {"demo", "out", "secagg"})
        from fedserver.demo import run_demo

        run_demo(out or Path("out/demo"), secagg)
        return
    if out is None:
        raise typer.BadParameter("name a folder for the result", param_hint="--out")
    out = out.resolve()
    if resume:
        _require_alone(context, "--resume", {"resume", "out", "listen"})
        _resume(out, listen)
        return
    if roster is None or keys is None or not model:
        raise typer.BadParameter("needed, unless --demo or --resume is given", param_hint="--roster, --keys, --model")
    from fedserver.plan import Plan

    plan = Plan(
        roster=str(roster.resolve()), keys=str(keys.resolve()), out=str(out), scheme=secagg, model=model,
        rounds=rounds, server_reads_sum=server_reads_sum,
        shared_key=_name_of(shared_key, roster), min_sites=min_sites,
        colluders=colluders, dropouts=dropouts, bits=bits, weight_cap=weight_cap,
        examples_per_weight=examples_per_weight, rotate=rotate, clip_norm=clip_norm, first_range=first_range,
        join_timeout=join_timeout, load_timeout=load_timeout, train_timeout=train_timeout, phase_timeout=phase_timeout,
        keep_vectors=keep_vectors, listen=listen or DEFAULT_LISTEN,
        lora=LoraSettings(rank, alpha, target_modules, dropout),
        training=TrainingSettings(
            learning_rate, learning_rate_decay, local_epochs, local_steps, batch_size, sequence_length, max_blocks, seed
        ),
    )  # fmt: skip
    _start(plan, out)


@app.command("verify-round")
def verify_round(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of the session, or a copy of its state.")],
    named: Annotated[str, typer.Argument(metavar="N", help="The round, or all.")],
    roster: Annotated[Path | None, typer.Option(help="The roster that the session must have been held with.")] = None,
) -> None:
    """Make the sum of a finished round again from the masked vectors, and name whoever sent wrong bytes.

    \b
    Example, at the server:
      fedserver verify-round ./out all --roster roster.json
    """
    from fedclient.audit import read_fixed, unwritable
    from fedclient.transcript import Transcript
    from fedclient.verifying import require_roster_in, rounds_named, show_fixed, verify_and_show

    transcript = Transcript(folder / STATE if (folder / STATE).is_dir() else folder, unwritable)
    fixed = read_fixed(transcript)
    if roster is not None:
        require_roster_in(roster, fixed)
    rounds = rounds_named(named, transcript)
    show_fixed(fixed, "compare it by telephone" if roster is None else f"as in {roster}")
    shown = verify_and_show(transcript, fixed, rounds, transcript.vectors)
    if not shown.is_read:
        notice("no server can read these sums; adapters are the sites' word here: a site recomputes them with")
        notice("  fedclient verify-round HOME all --vectors DIR, where DIR is a copy of OUT/state/rounds")
    if not shown.is_whole:
        notice("vectors that are not here were not kept: fedserver --keep-vectors says of how many rounds they are")


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of the session.")],
    out: Annotated[Path | None, typer.Option(help="Where the report goes (default: DIR/report).")] = None,
    timings: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A copy of a site's HOME/timings.jsonl; may be repeated.")
    ] = None,
) -> None:
    """Write what protection cost the rounds of this session, as a page, as Markdown and as JSON.

    \b
    Example, at the server:
      fedserver report ./out
    """
    from fedserver.overhead.session import session_run
    from fedserver.overhead.write import report_of, write_report

    typer.echo(str(write_report(report_of(session_run(folder, timings or ())), out or folder / "report")))


def _require_alone(context: typer.Context, mode: str, allowed: set[str]) -> None:
    """Raises BadParameter for an option that this mode would ignore."""
    for name in context.params.keys() - allowed:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise typer.BadParameter(f"cannot be given with {mode}", param_hint="--" + name.replace("_", "-"))


def _name_of(shared_key: Path | None, roster: Path) -> str:
    """The name of the key that a site of the roster dealt to all others. Raises KeyFileError."""
    if shared_key is None:
        return ""
    from fedserver.preflight import current_roster
    from keys.dealt import read_dealt

    dealt = read_dealt(shared_key, current_roster(roster))
    notice(f"fedserver: the sites share the key {dealt.key.hex()}, made by {dealt.maker}")
    return dealt.key.hex()


def _start(plan: Plan, out: Path) -> None:
    from fedserver.preflight import require_runnable
    from fedserver.supervise import only_server

    host, port = _address(plan.listen)
    require_runnable(plan)
    with only_server(out):
        _begin(plan, out)
        _run(plan, host, port)


def _resume(out: Path, listen: str) -> None:
    from fedserver.checkpoint import Checkpoint
    from fedserver.plan import Plan, ServerError
    from fedserver.preflight import require_runnable
    from fedserver.supervise import PLAN_FILE, STATE, only_server

    if not (out / PLAN_FILE).exists():
        raise ServerError(f"{out} holds no session", "start one without --resume")
    plan = Plan.load(out / PLAN_FILE)
    host, port = _address(listen or plan.listen)
    if _is_over(out) and Checkpoint(out / STATE).rounds() >= plan.rounds:
        notice("the session is finished")
        _tell_where(out)
        return
    require_runnable(plan)
    with only_server(out):
        _run(plan, host, port)


def _begin(plan: Plan, out: Path) -> None:
    """Writes the plan. A folder where no session was agreed on yet is used again. Raises ServerError."""
    from fedserver.checkpoint import Checkpoint
    from fedserver.plan import ServerError
    from fedserver.supervise import PLAN_FILE, STATE

    if (out / PLAN_FILE).exists() and Checkpoint(out / STATE).manifest() is not None:
        raise ServerError(f"{out} holds a session already", "go on with --resume, or choose another --out")
    try:
        plan.save(out / PLAN_FILE)
    except OSError as error:
        raise ServerError(f"cannot write {out}: {error.strerror}", "choose another --out") from None


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > LAST_PORT:
        raise typer.BadParameter("write it like 0.0.0.0:8443", param_hint="--listen")
    return host.strip("[]"), int(port)


def _run(plan: Plan, host: str, port: int) -> None:
    from fedserver.live import View
    from fedserver.supervise import own_tls, supervise

    with View() as view:
        supervise(
            plan, host, port, own_tls(Path(plan.keys)), view.show,
            lambda bound: view.line(f"fedserver: sites connect to {host}:{bound}"),
        )  # fmt: skip
    _tell_where(Path(plan.out))


def _is_over(out: Path) -> bool:
    """Whether the session ended well: the adapter is here, or at the sites if only they can read the sum."""
    from fedserver.app import EVENTS
    from fedserver.journal import events_named

    return (out / "adapter").exists() or any(events_named(out / EVENTS, "done"))


def _tell_where(out: Path) -> None:
    from fedserver.app import EVENTS
    from fedserver.journal import events_named

    if (out / "adapter").exists():
        notice("the adapter is in:")
        typer.echo(str(out / "adapter"))
        return
    *_, last = events_named(out / EVENTS, "finished")
    notice("this server never saw the sum; the adapter is at the sites:")
    typer.echo("\n".join(last["saved_at"]))


def _failures() -> tuple[type[Exception], ...]:
    from fedserver.failures import FAILURES

    return KeyFileError, LocalError, *FAILURES


def main() -> None:
    """The console script."""
    run(
        app, "fedserver", failures=_failures,
        interrupted=("stopped; every process was ended", "go on with: fedserver --resume --out DIR"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
