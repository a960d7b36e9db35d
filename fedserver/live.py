"""What a person sees while rounds run: which site answered what, one finished round a line, on stderr."""

from __future__ import annotations

from typing import Any

from rich.console import Console

PHASES = {
    "advertise": "keys",
    "share": "shares",
    "mask": "masked updates",
    "consent": "survivors",
    "unmask": "unmask",
    "check": "check of the sum",
    "contribute": "ciphertexts",
}


class View:
    """Takes the journal's events; a moving line on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._head, self._asked, self._answered = "", list[str](), list[str]()

    def __enter__(self) -> View:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def line(self, text: str) -> None:
        """One lasting line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def show(self, event: dict[str, Any]) -> None:
        """Shows one event of the journal."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _begin(self, head: str, asked: list[str]) -> None:
        self._end_phase()
        self._head, self._asked, self._answered = head, asked, []
        self._draw()

    def _draw(self) -> None:
        if self._status is not None:
            left = [site for site in self._asked if site not in self._answered]
            done = " ".join(f"[green]{site}[/green]" for site in self._answered)
            self._status.update(f"{self._head}: {done} [dim]{' '.join(left)}[/dim]")

    def _end_phase(self) -> None:
        if self._head and self._status is None:
            self.line(f"{self._head}: {len(self._answered)} of {len(self._asked)}: {' '.join(self._answered)}")
        self._head = ""

    def _answer(self, site: str) -> None:
        self._answered.append(site)
        self._draw()

    def _on_waiting(self, event: dict[str, Any]) -> None:
        self._begin(f"waiting for {event['least']} sites", event["expected"])

    def _on_connected(self, event: dict[str, Any]) -> None:
        self._answer(event["site"])

    def _on_proposed(self, event: dict[str, Any]) -> None:
        if event["asked"]:
            self._begin("loading the model", event["asked"])

    def _on_loaded(self, event: dict[str, Any]) -> None:
        self._answer(event["site"])

    def _on_transcript(self, event: dict[str, Any]) -> None:
        a_round, session = event["bytes_round"] / 1e9, event["bytes_session"] / 1e9
        self.line(
            f"the transcript takes {a_round:.2g} GB a round and {session:.3g} GB on disk at the end; "
            "--keep-vectors bounds it"
        )

    def _on_resumed(self, event: dict[str, Any]) -> None:
        self.line(f"resuming after round {event['rounds']}")

    def _on_round(self, event: dict[str, Any]) -> None:
        self._round = f"round {event['round']}/{event['rounds']}"

    def _on_training(self, event: dict[str, Any]) -> None:
        self._begin(f"{self._round} training", event["asked"])

    def _on_ready(self, event: dict[str, Any]) -> None:
        self._answer(event["site"])

    def _on_phase(self, event: dict[str, Any]) -> None:
        self._begin(f"{self._round} {PHASES.get(event['phase'], event['phase'])}", event["asked"])

    def _on_answered(self, event: dict[str, Any]) -> None:
        self._answer(event["site"])

    def _on_refused(self, event: dict[str, Any]) -> None:
        blames = f", and blames {event['blames']}" if event.get("blames") else ""
        self.line(f"  {event['site']} refused: {event['code']}{blames}")

    def _on_fault(self, event: dict[str, Any]) -> None:
        self.line(f"  {event['site']} sent a faulty answer: {event['code']}")

    def _on_silent(self, event: dict[str, Any]) -> None:
        self.line(f"  {event['site']} did not answer {PHASES.get(event['phase'], event['phase'])}")

    def _on_void(self, event: dict[str, Any]) -> None:
        self._end_phase()
        self.line(f"round {event['round']} is void: {event['why']}")

    def _on_aggregated(self, event: dict[str, Any]) -> None:
        self._end_phase()
        up = sum(event["bytes_up"].values()) / max(1, len(event["contributors"])) / event["size"]
        totals, loss = event["totals"], ""
        if totals is not None:
            loss = f", train loss {totals['train_loss']:.3f}, held-out loss {totals['eval_loss']:.3f}"
        self.line(
            f"{self._round}: {len(event['contributors'])} sites, train {event['seconds_train']:.1f} s, "
            f"protocol {sum(event['seconds'].values()):.1f} s, {up:.2f} bytes up per parameter{loss}"
        )
        if event["dropouts"]:
            self.line(f"  without {', '.join(event['dropouts'])}")
        if totals is not None and totals["clipped"] > 0.01:
            self.line(
                f"  WARNING: {totals['clipped']:.1%} of the values were clipped; the range grows next round, "
                "or set --first-range"
            )

    def _on_finished(self, event: dict[str, Any]) -> None:
        self._end_phase()
        self.line(f"session over after {event['rounds']} rounds; adapter at {', '.join(event['saved_at'])}")
