"""What commands print: tables and summaries, for people."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from extractors import Expert, FetchedFile, ListedFile, WeightsVerdict
    from feature_store.importing import ImportSummary
    from feature_store.survey import ExpertDifference, StoreSummary, VideoSummary
    from feature_store.verify import Verdict
    from pipeline.extraction import Summary
    from pipeline.watching import Holder, View

FAILURES_SHOWN = 20
REASONS_SHOWN = 10
ROWS_SHOWN = 12
VIDEOS_SHOWN = 4  # of those that a process is at
FOREIGN_SHOWN = 5
CHARS_SHOWN = 60  # of a name in what is watched
HIDDEN = ("start", "end", "landmarks")  # of records: shown as times, or too many numbers


def plain(text: str) -> Text:
    """Text from outside, e.g. an id or a path: no markup, nothing that steers a terminal."""
    return Text("".join(char if char.isprintable() else ascii(char)[1:-1] for char in text))


def plain_lines(text: str) -> Text:
    """Text of several lines from outside."""
    return Text("\n").join(plain(line) for line in text.split("\n"))


def table(*columns: str, title: str | None = None) -> Table:
    """A table whose columns are right-aligned where their name starts with '>'."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def show_summary(console: Console, summary: Summary) -> None:
    """The end of an extraction: what was done, what went wrong, and how fast it was against what bounds it."""
    counts = summary.statuses
    before = f" ({summary.shards_before} shards were complete before)" if summary.shards_before else ""
    console.print(
        f"{summary.videos} videos in {summary.shards} shards{before}: {counts.get('ok', 0)} ok, "
        f"{counts.get('truncated', 0)} truncated, {counts.get('failed', 0)} failed",
        highlight=False,
    )
    if summary.reasons:
        faults = table(">videos", "what went wrong")
        reasons = sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0]))
        for reason, count in reasons[:REASONS_SHOWN]:
            faults.add_row(str(count), plain(reason))
        if len(reasons) > REASONS_SHOWN:
            faults.add_row("", f"and {len(reasons) - REASONS_SHOWN} more reasons: reelcache status lists every video")
        console.print(faults)
    if summary.video_seconds:
        ceiling = min(summary.decode_ceiling, summary.model_ceiling)
        console.print(
            f"{summary.video_seconds:.0f} s of video in {summary.seconds:.1f} s: {summary.rate:.1f} s of video/s, "
            f"{summary.rate / ceiling:.0%} of what the slower stage could do alone "
            f"(networks {summary.model_ceiling:.1f}, decoding {summary.decode_ceiling:.1f} "
            f"of {summary.decoders} video{'s' * (summary.decoders > 1)} at once)",
            highlight=False,
        )


def show_status(console: Console, summary: StoreSummary, failures: int = FAILURES_SHOWN) -> None:
    """How far a store is."""
    decoded = f"; in all {summary.decodes} times a video was decoded for them" if summary.decodes else ""
    console.print(f"{summary.videos} videos in {summary.shards} shards{decoded}", highlight=False)
    console.print(experts_table(summary))
    if any(is_random(expert.weights) for expert in summary.experts.values()):
        console.print("Features of [bold yellow]random[/] weights mean nothing; they serve tests.")
    if not summary.failures:
        return
    by_fault: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for fault in summary.failures:
        by_fault[fault.video, fault.stage, fault.reason].append(fault.expert)
    faults = table("video", "experts", "stage", "reason")
    for (video, stage, reason), names in sorted(by_fault.items())[:failures]:
        everyone = len(names) == len(summary.experts)
        faults.add_row(plain(video), "all" if everyone else plain(", ".join(names)), stage, plain(reason))
    console.print(faults)
    if len(by_fault) > failures:
        console.print(f"and {len(by_fault) - failures} more: --json lists all")


def experts_table(summary: StoreSummary) -> Table:
    """How far each expert of a store is."""
    states = (">ok", ">trunc.", ">none", ">failed", ">pending")
    experts = table("expert", ">dim", "weights", *states, ">rows", ">hours", ">MB")
    for name, expert in summary.experts.items():
        counts = (expert.ok, expert.truncated, expert.no_stream, expert.failed, expert.pending, expert.rows)
        experts.add_row(
            plain(name),
            str(expert.dim),
            weights_text(expert.weights),
            *map(str, counts),
            f"{expert.seconds / 3600:.2f}",
            f"{expert.bytes / 1e6:.1f}",
        )
    return experts


def status_panel(view: View) -> RenderableType:
    """A store that is being watched: how far it is, and who is at work on what."""
    summary = view.summary
    bar = Table.grid(padding=(0, 1))
    shown = ProgressBar(max(1, summary.videos), stored_videos(summary), width=40)
    bar.add_row(shown, f"{stored_videos(summary)}/{summary.videos} videos", time_left(view))
    faults = Text(f"{len(summary.failures)} failures: reelcache status lists them" if summary.failures else "")
    if not view.holders:
        return Group(bar, experts_table(summary), faults, Text("nobody is at work"))
    work = table("at work", "device", ">videos", ">failed", ">s of video/s", "on shard: video")
    for holder in view.holders:
        says = holder.says
        counts = (str(says.videos), str(says.failed), f"{says.rate:.1f}")
        doing = Text("\n").join(_doing(says.at)) if not holder.silent else Text("silent: it may be dead", "yellow")
        work.add_row(plain(holder_name(holder)), plain(short(says.device)), *counts, doing)
    alive = [holder.says for holder in view.holders if not holder.silent]
    total = (
        f"{len(alive)} at work, {len(view.holders) - len(alive)} silent: {sum(says.videos for says in alive)} videos, "
        f"{sum(says.rate for says in alive):.1f} s of video/s"
    )
    return Group(bar, experts_table(summary), faults, work, Text(total))


def _doing(at: Sequence[tuple[str, str, float]]) -> Iterator[Text]:
    for shard, video, seconds in at[:VIDEOS_SHOWN]:
        yield plain(f"{short(shard)}: {short(video)} ({seconds:.0f} s)")
    if len(at) > VIDEOS_SHOWN:
        yield Text(f"and {len(at) - VIDEOS_SHOWN} more")


def status_line(view: View) -> str:
    """The same in a line, without what time alone changes."""
    counts = [f"{short(name)} {view.summary.videos - each.pending}" for name, each in view.summary.experts.items()]
    work = [
        f"{holder_name(holder)} {'silent' if holder.silent else f'{holder.says.videos} videos'}"
        for holder in view.holders
    ]
    line = (
        f"{stored_videos(view.summary)}/{view.summary.videos} videos ({', '.join(counts) or 'no experts'}), "
        f"{len(view.summary.failures)} failures; at work: {', '.join(work) or 'nobody'}"
    )
    return plain(line).plain


def show_holders(console: Console, holders: Sequence[Holder]) -> None:
    """Who is at work on a store, in a line; nothing if nobody is. A single look cannot tell who is silent."""
    alive = [holder_name(holder) for holder in holders if not holder.silent]
    if alive:
        console.print(plain(f"at work on it: {', '.join(alive)}; --watch shows on what"), soft_wrap=True)


def holder_name(holder: Holder) -> str:
    """Host and process number; the name of its file where it does not say them."""
    says = holder.says
    return f"{short(says.host)} pid {says.pid}" if says.host and says.pid else short(holder.name)


def stored_videos(summary: StoreSummary) -> int:
    """Videos that are done for all experts, if all experts do them in the same order."""
    return summary.videos - max((expert.pending for expert in summary.experts.values()), default=summary.videos)


def time_left(view: View) -> str:
    """When it will be over, e.g. "ETA 1:02:03"."""
    if view.left is None:
        return "ETA --:--"
    left = int(view.left)
    return f"ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"


def short(text: str) -> str:
    """Text from outside, cut if it is long."""
    return text if len(text) <= CHARS_SHOWN else f"{text[: CHARS_SHOWN - 3]}..."


def is_random(source: str) -> bool:
    return source.startswith("random:")


def weights_text(source: str) -> Text:
    """Where weights came from; random ones stand out wherever they are shown."""
    return Text(source, style="bold yellow") if is_random(source) else plain(source)


def show_verdict(console: Console, verdict: Verdict, repaired: bool) -> None:
    """What a check found."""
    if verdict.foreign:
        named = ", ".join(verdict.foreign[:FOREIGN_SHOWN]) + (", ..." if len(verdict.foreign) > FOREIGN_SHOWN else "")
        console.print(
            plain(f"{len(verdict.foreign)} files that are not the store's, and are left: {named}"), soft_wrap=True
        )
    if not verdict.damaged:
        console.print(f"{verdict.checked} shards checked: all sound", highlight=False)
        return
    found = table("expert", ">shard", "array", "what is wrong")
    for damage in verdict.damaged:
        found.add_row(plain(damage.expert), f"{damage.shard:06d}", damage.array, plain(damage.reason))
    console.print(found)
    shards = len({(damage.expert, damage.shard) for damage in verdict.damaged})
    cure = (
        "dropped: run extract again to redo them" if repaired else "--repair drops them, and extract then redoes them"
    )
    console.print(f"{verdict.checked} shards checked, {shards} damaged; {cure}", highlight=False)


def show_video(console: Console, video: str, experts: Mapping[str, VideoSummary | None]) -> None:
    """One video: its rows, expert by expert."""
    for name, found in experts.items():
        console.print()
        if found is None:
            console.print(plain(f"{name}: pending"))
            continue
        status = found.status
        note = f" ({status.stage + ': ' if status.stage else ''}{status.reason})" if status.reason else ""
        console.print(plain(f"{name}: {status.status}{note}, {status.rows} rows over {status.seconds:.2f} s"))
        if not status.rows:
            continue
        rows = table(">row", ">start s", ">end s", ">norm", *([] if found.records is None else ["found"]))
        shown = range(status.rows) if status.rows <= ROWS_SHOWN else [*range(ROWS_SHOWN - 2), status.rows - 1]
        for row in shown:
            if row == status.rows - 1 and len(shown) < status.rows:
                rows.add_row("...", "", "", "")
            start, end = found.times[row]
            about = [] if found.records is None else [plain(_record_text(found.records[row]))]
            rows.add_row(str(row), f"{start:.3f}", f"{end:.3f}", f"{found.norms[row]:.4g}", *about)
        console.print(rows)


def _record_text(record: Mapping[str, Any]) -> str:
    """A record without its times: what it says first, then the numbers."""
    parts = (f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in record.items() if key not in HIDDEN)
    return ", ".join(parts)


def show_differences(console: Console, experts: Mapping[str, ExpertDifference | str]) -> None:
    """How two stores differ."""
    figures = (">videos", ">rows", ">equal", ">cosine mean", ">min", ">largest diff", ">time diff s")
    compared = table("expert", *figures, "other")
    for name, found in experts.items():
        if isinstance(found, str):
            compared.add_row(plain(name), *[""] * 7, plain(found))
            continue
        notes = [f"{found.different_rows} videos differ in rows"] * bool(found.different_rows)
        notes += [f"{found.only_in_a} videos only in A"] * bool(found.only_in_a)
        notes += [f"{found.only_in_b} videos only in B"] * bool(found.only_in_b)
        compared.add_row(
            plain(name),
            str(found.videos),
            str(found.rows),
            f"{found.equal_rows / max(1, found.rows):.1%}",
            f"{found.cosine_mean:.6f}",
            f"{found.cosine_min:.6f}",
            f"{found.largest:.2g}",
            f"{found.seconds:.3g}",
            plain("\n".join([*notes, *found.provenance])),
        )
    console.print(compared)


def show_problems(console: Console, problems: Iterable[tuple[str, str]]) -> None:
    """Files that cannot be read."""
    unreadable = table("unreadable", "reason")
    for name, reason in problems:
        unreadable.add_row(plain(name), plain(reason))
    if unreadable.row_count:
        console.print(unreadable)


def show_experts(
    console: Console,
    experts: Iterable[Expert],
    facts: Iterable[Mapping[str, Any]],
    presets: Mapping[str, list[str]],
) -> None:
    """The experts that can be extracted."""
    shown = table("expert", "kind", ">dim", "a row is made from", "weights", "license", "cached")
    for expert, fact in zip(experts, facts, strict=True):
        cached = "yes" if fact["cached"] else "no"
        weights = expert.weights
        row = (expert.kind, str(fact["dim"]), str(expert.samples), weights.source, weights.license, cached)
        shown.add_row(expert.name, *row)
    shown.add_row("timm:<model>", "appearance", "", "1 frame every 0.5 s", "the model's own", "the model's own", "")
    console.print(shown)
    for name, preset in presets.items():
        console.print(f"--preset {name}: {', '.join(preset)}", highlight=False)


def show_weights(console: Console, folder: str, files: Iterable[ListedFile]) -> None:
    """The files of weights that are known, and which of them are here."""
    shown = table("expert", "file", ">MB", "license", "SHA-256", "source", "where")
    for file in files:
        size = "?" if file.size is None else f"{file.size / 1e6:.1f}"
        digest = file.sha256[:8] or "no digest"
        style = "" if file.where == "missing" else "green"
        host = file.source.split("/")[2] if file.source else "nowhere"
        row = (plain(file.file), size, file.license, digest, host, Text(file.where, style=style))
        shown.add_row(file.expert, *row)
    console.print(shown)
    console.print(plain(f"folder: {folder}"), soft_wrap=True)


def show_fetched(console: Console, errors: Console, file: FetchedFile) -> None:
    """A file that was asked for, as soon as it is there or cannot be had."""
    if file.problem:
        errors.print(plain_lines(f"{file.expert}: {file.problem}"), style="red", soft_wrap=True)
    else:
        console.print(plain(f"{file.expert}: {file.path} (license: {file.license})"), soft_wrap=True)


def show_weights_verdict(console: Console, verdict: WeightsVerdict) -> None:
    """What a check of a folder of weights found."""
    damaged = table("damaged file", "what is wrong")
    for file in verdict.damaged:
        damaged.add_row(plain(file.file), plain(file.reason))
    if damaged.row_count:
        console.print(damaged)
        console.print("Delete them, and fetch or copy them again: reelcache weights fetch EXPERT")
    for name in verdict.no_digest:
        console.print(plain(f"{name}: nobody tells its digest, so it could not be checked"), soft_wrap=True)
    checked = len(verdict.sound) + len(verdict.damaged)
    console.print(plain(f"{verdict.folder}: {checked} checked, {len(verdict.damaged)} damaged"), soft_wrap=True)


def show_import(console: Console, summary: ImportSummary) -> None:
    """What an import did."""
    times = summary.sampling["times"]
    covered = "the seconds that rows cover are unknown" if times == "unknown" else f"times: {times}"
    counts = f"{summary.ok} ok, {summary.truncated} truncated, {summary.no_stream} without, {summary.failed} missing"
    console.print(plain(f"{summary.expert}: {summary.videos} videos in {summary.shards} shards written: {counts}"))
    console.print(plain(f"{summary.rows} rows of {summary.dim} {summary.dtype}; {covered}; sha256 {summary.sha256}"))
    if summary.skipped:
        console.print(f"{summary.skipped} videos of the source are not in the store: left out", highlight=False)
    for note in summary.notes:
        console.print(plain(note))
