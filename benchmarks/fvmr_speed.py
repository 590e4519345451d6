"""What a sentence costs when moments are embedded beforehand: FVMR against the network whose moments they are.

Claim: on a CPU, a query of FVMR (its words, a product with the moments of a video, and the best five of them) takes
at most a hundredth of 2D-TAN's pass over the same moments (words, fusion, convolutions over the map, scores), at the
sizes of all three published data sets, on one thread and on two. 2D-TAN's suppression is left out of its query.

Times are elapsed milliseconds, median (least-greatest), of one sentence of ten words and one video; weights are
random, which changes no time. Ratios are of the least times: on a machine that does other things, two threads wait
for one another, which says nothing of either model. "video" is what each computes of a video before it sees a
sentence; "with video" is the ratio when that is done for a single query, "without text" that of what follows the words
but suppression.

    python benchmarks/fvmr_speed.py [--rounds 30] [--slow-rounds 2]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import typer
from measure import interleave, spread, table, verdict

from train.grounding import fvmr, tan2d

LIMIT = 100
WORDS, TOP_K = 10, 5
FVMR_QUERY, TAN2D_QUERY = ("text", "score", "best"), ("text", "cross-modal")

Stages = Mapping[str, Callable[[], object]]


def fvmr_stages(name: str) -> Stages:
    config = fvmr.PUBLISHED[name]
    model = fvmr.FVMR(config).eval()
    clips, words, lengths = inputs(config.clips, config.video_dim)
    moments, text = model.encode_moments(clips), model.encode_text(words, lengths)
    logits, durations = model.score(moments, text), torch.tensor([100.0])
    return {
        "video": lambda: model.encode_moments(clips),
        "text": lambda: model.encode_text(words, lengths),
        "score": lambda: model.score(moments, text),
        "best": lambda: model.best(logits, durations, TOP_K),
    }


def tan2d_stages(name: str) -> Stages:
    config = tan2d.PUBLISHED[name]
    model = tan2d.TAN2D(config).eval()
    clips, words, lengths = inputs(config.clips, config.video_dim)
    moments, text = model.encode_video(clips), model.encode_text(words, lengths)
    return {
        "video": lambda: model.encode_video(clips),
        "text": lambda: model.encode_text(words, lengths),
        "cross-modal": lambda: model.match(moments, text),
    }


def inputs(clips: int, video_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One video and one sentence."""
    return torch.randn(1, clips, video_dim), torch.randn(1, WORDS, 300), torch.tensor([WORDS])


def times(stages: Stages, rounds: int, slow_rounds: int) -> dict[str, list[float]]:
    """Elapsed milliseconds of each stage."""
    slow = {stage: call for stage, call in stages.items() if stage == "cross-modal"}
    fast = {stage: call for stage, call in stages.items() if stage not in slow}
    timings = {**interleave(fast, rounds), **interleave(slow, slow_rounds)}
    return {stage: [1000 * seconds for seconds in timings[stage].wall] for stage in stages}


def least(milliseconds: Mapping[str, list[float]], *stages: str) -> float:
    """The sum of the least times of stages."""
    return sum(min(milliseconds[stage]) for stage in stages)


@torch.inference_mode()
def main(rounds: int = 30, slow_rounds: int = 2) -> None:
    torch.manual_seed(0)
    stages = [("ms", "threads", "", "video", "text", "score or cross-modal", "best", "query, least")]
    summary = [("as fast as 2D-TAN", "threads", "moments", "a query", "with video", "without text")]
    lowest = float("inf")
    for name in fvmr.PUBLISHED:
        count = len(fvmr.PUBLISHED[name].proposals.cells)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours = times(fvmr_stages(name), rounds, slow_rounds)
            theirs = times(tan2d_stages(name), rounds, slow_rounds)
            query, their_query = least(ours, *FVMR_QUERY), least(theirs, *TAN2D_QUERY)
            cells = [spread(ours[stage], ".3f") for stage in ("video", "text", "score", "best")]
            stages.append((name, str(threads), "FVMR", *cells, f"{query:.3f}"))
            cells = [spread(theirs[stage], ".1f") for stage in ("video", "text", "cross-modal")]
            stages.append(("", "", "2D-TAN", *cells, "", f"{their_query:.1f}"))
            ratios = {
                "a query": their_query / query,
                "with video": (least(theirs, "video") + their_query) / (least(ours, "video") + query),
                "without text": least(theirs, "cross-modal") / least(ours, "score"),
            }
            summary.append((name, str(threads), str(count), *(f"{ratio:.0f}x" for ratio in ratios.values())))
            lowest = min(lowest, ratios["a query"])
    table(stages)
    table(summary)
    verdict(f"a query of FVMR: {lowest:.0f}x as fast as 2D-TAN's (claim: at least {LIMIT}x)", lowest >= LIMIT)


if __name__ == "__main__":
    typer.run(main)
