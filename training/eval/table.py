"""Tables of what was measured, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from training.eval.results import Results, Score, Way, total
from training.eval.targets import THINKING, Target, load_targets

NOTHING = "–"


def percent(value: float | None) -> str:
    """With one digit where it is not whole."""
    if value is None:
        return NOTHING
    return f"{value:.0f} %" if round(value, 1) == round(value) else f"{value:.1f} %"


def targets_table(every: Sequence[Results]) -> str:
    """What was to be reached, and what was: in the shipped format first, then in the others."""
    header, rule = ["skill"], ["---"]
    for results in every:
        header += [f"{results.model}: goal", *results.formats]
        rule += ["---:"] * (1 + len(results.formats))
    lines = [_row(header), _row(rule)]
    for target in load_targets():
        cells = [target.title]
        for results in every:
            goal = target.goal(results.model)
            cells.append(f"≥ {percent(goal)}" if goal is not None else "reported")
            for name in results.formats:
                cells.append(_reached(results, target, name, goal))
        lines.append(_row(cells))
    return "\n".join(lines)


def ways_table(results: Results) -> str:
    """All questions together, for each way of asking."""
    lines = [_row(["weights", "thinking", "forms enforced", "asked", "right", "well-formed"])]
    lines.append(_row(["---", "---", "---", "---:", "---:", "---:"]))
    for one in results.ways:
        score = total(score for skill, score in one.skills.items() if _is_short(skill))
        if score is not None:
            enforced = "yes" if one.way.enforced else "no"
            lines.append(_row([one.way.format, one.way.thinking, enforced, f"{score.num_asked:,}", *_both(score)]))
    return "\n".join(lines)


def skills_table(results: Results) -> str:
    """Right answers to each skill's questions, in the shipped format."""
    ways = [
        Way(format=results.shipped_format, thinking=thinking, enforced=enforced)
        for thinking in THINKING
        for enforced in (False, True)
    ]
    ways = [way for way in ways if results.scores(way)]
    header = [f"{way.thinking}{', enforced' if way.enforced else ''}" for way in ways]
    lines = [_row(["skill", "asked", *header]), _row(["---", "---:", *["---:"] * len(ways)])]
    for skill in sorted({skill for way in ways for skill in results.scores(way)}):
        scores = [results.scores(way).get(skill) for way in ways]
        num_asked = max(score.num_asked for score in scores if score is not None)
        cells = [NOTHING if score is None else percent(score.right_percent) for score in scores]
        lines.append(_row([f"`{skill}`", str(num_asked), *cells]))
    return "\n".join(lines)


def _reached(results: Results, target: Target, format_name: str, goal: float | None) -> str:
    score = results.score(target, format_name)
    if score is None:
        return NOTHING
    value = score.right_percent if target.judged == "right" else score.well_formed_percent
    # Whether a goal is met is decided before anything is rounded for display.
    return percent(value) if goal is None or value >= goal else f"**{percent(value)}**"


def _is_short(skill: str) -> bool:
    """Long prompts are not asked in every way, so that they would make ways unlike each other."""
    return skill not in ("recall_4k", "recall_16k")


def _both(score: Score) -> list[str]:
    return [percent(score.right_percent), percent(score.well_formed_percent)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
