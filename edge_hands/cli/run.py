"""``edge-hands run``: find the hands in photographs, a video or a camera, say so, and write what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from edge_hands.hand import Hand
    from edge_hands.sources import Frame, Source
    from edge_hands.tracker import HandTracker, Timing


def command(
    source: Annotated[str, typer.Argument(help="A photograph, a folder of them, a video, or a camera's number.")],
    json: Annotated[str | None, typer.Option(metavar="FILE", help="Write the hands as JSON; - for stdout.")] = None,
    draw: Annotated[Path | None, typer.Option(metavar="DIR", help="Write annotated pictures, or a video.")] = None,
    landmarks: Annotated[Path | None, typer.Option(metavar="DIR", help="Bundle of the landmark model.")] = None,
    detector: Annotated[Path | None, typer.Option(metavar="DIR", help="Bundle of the detector.")] = None,
    runtime: Annotated[str, typer.Option(help="A runtime by its name, or auto: the first that works here.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads of a model.")] = 1,
    max_hands: Annotated[int, typer.Option(min=1, max=64, help="Hands in a frame at most.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take only bundles signed with this key, a PEM file.")
    ] = None,
) -> None:
    """Find the hands in SOURCE and print where they are and how long that took.

    JSON, pictures and videos are written whole or not at all, and never over a source. Pictures of a folder that
    cannot be read are reported and passed over; the exit code is then 1.
    """
    from edge_hands.cli import console, outputs
    from edge_hands.sources import open_source
    from edge_hands.tracker import HandTracker

    opened = open_source(source)
    screen = console.err if json == "-" else console.out
    with console.no_chatter():
        tracker = HandTracker(landmarks, detector, runtime, threads, max_hands, public_key=public_key)
    with tracker:
        written = outputs.JsonOutput(json, source, opened, tracker) if json else None
        moving = opened.kind in ("video", "camera")
        drawn = None if draw is None else (outputs.VideoOutput if moving else outputs.PictureOutput)(draw, opened)
        job = _Job(screen, opened, tracker, written, drawn, limit)
        try:
            job.video() if moving else job.photos()
        finally:
            if drawn is not None:
                drawn.close()
    if written is not None:
        written.write()
    if job.bad:
        raise typer.Exit(1)


class _Job:
    """One run: what to read, what to do with each frame, and how many pictures were bad."""

    def __init__(
        self, screen: Console, source: Source, tracker: HandTracker, written: object, drawn: object, limit: int | None
    ) -> None:
        self.screen, self.source, self.tracker, self.limit = screen, source, tracker, limit
        self.written, self.drawn, self.bad = written, drawn, 0

    def photos(self) -> None:
        """Each photograph with a table of its hands."""
        from edge_hands.errors import FrameError
        from edge_hands.sources import frames

        alone = self.source.kind == "photo"
        if self.limit is not None:
            from dataclasses import replace

            self.source = replace(self.source, paths=self.source.paths[: self.limit])
        named = False
        for frame in frames(self.source, None if alone else self._bad):
            try:
                hands = self.tracker.track(frame)
            except FrameError as error:
                if alone:
                    raise FrameError(f"{frame.name}: {error}") from error
                self._bad(frame.name, FrameError(f"{frame.name}: {error}"))
                continue
            self._keep(frame, hands)
            if not named:
                named = True
                self._print_models()
            self._print_photo(frame, hands, self.tracker.timing)
        if not alone:
            good = len(self.source.paths) - self.bad
            self.screen.print(f"{good} pictures" + (f", {self.bad} that could not be read" if self.bad else ""))

    def video(self) -> None:
        """All frames behind a progress bar, then a summary. Ctrl-C ends the video, not the program."""
        from statistics import median

        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from edge_hands.cli.console import err
        from edge_hands.sources import frames

        self._print_models()
        total = min(filter(None, (self.source.count, self.limit)), default=None)
        times, ids, with_hands, fps = [], set(), 0, TextColumn("{task.fields[fps]:.0f} fps")
        columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), fps, TimeRemainingColumn())
        reader = frames(self.source)
        try:
            with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
                task = progress.add_task("", total=total, fps=0.0)
                for frame in reader:
                    hands = self.tracker.track(frame)
                    self._keep(frame, hands)
                    times.append(self.tracker.timing.total_ms)
                    ids.update(hand.id for hand in hands)
                    with_hands += bool(hands)
                    progress.update(task, advance=1, fps=1e3 / median(times[-30:]))
                    if self.limit is not None and len(times) >= self.limit:
                        break
        except KeyboardInterrupt:
            self.screen.print("stopped", style="yellow")
        finally:
            reader.close()
        if times:
            middle = median(times)
            self.screen.print(
                f"{len(times)} frames, hands in {with_hands}, {len(ids)} different hands followed; "
                f"{middle:.1f} ms a frame ({1e3 / middle:.0f} fps), slowest {max(times):.1f} ms"
            )

    def _keep(self, frame: Frame, hands: list[Hand]) -> None:
        if self.written is not None:
            self.written.add(frame, hands, self.tracker.timing)
        if self.drawn is not None:
            self.drawn.add(frame, hands)

    def _bad(self, path: object, error: Exception) -> None:
        from edge_hands.cli.console import say_error

        self.bad += 1
        say_error(str(error))
        if self.written is not None:
            self.written.add_error(str(path), error)

    def _print_models(self) -> None:
        text = ", ".join(
            f"{session.manifest.name} on {session.runtime} "
            f"({session.variant.scan}, loaded in {session.stats.load_ms:.0f} ms)"
            for session in (self.tracker.detector, self.tracker.landmarks)
        )
        self.screen.print(text, style="dim", markup=False, soft_wrap=True)

    def _print_photo(self, frame: Frame, hands: list[Hand], timing: Timing) -> None:
        from rich.markup import escape

        from edge_hands.cli.console import table

        took = (
            f"{timing.total_ms:.0f} ms: detect {timing.detect_ms:.0f} ({timing.detector_runs}x), "
            f"landmarks {timing.landmarks_ms:.0f} ({timing.landmark_runs}x)"
        )
        title = f"[bold]{escape(frame.name)}[/bold]  {frame.shape[1]}x{frame.shape[0]}  [dim]{took}[/dim]"
        if not hands:
            self.screen.print(f"{title}\n  no hands", soft_wrap=True)
            return
        self.screen.print(title, soft_wrap=True)
        rows = table("", "hand", "side", "sure", "score", "box (px)", right=("hand", "sure", "score"))
        for hand in hands:
            x0, y0, x1, y1 = hand.box
            where = f"{x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}"
            rows.add_row(str(hand.id), hand.handedness, f"{hand.handedness_score:.2f}", f"{hand.score:.2f}", where)
        self.screen.print(rows)
