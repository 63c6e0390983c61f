# SPDX-License-Identifier: Apache-2.0
"""`evaluate`: engines on focal stacks, recordings and data sets, against ground truth where there is one."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dualfocus_ros.commands import (
    DEFAULT_ENGINE,
    add_engines_arguments,
    add_residual_argument,
    add_topic_arguments,
    told_on_stderr,
)

if TYPE_CHECKING:
    from dualfocus_ros.engine.base import DepthEngine
    from dualfocus_ros.evaluation.html import HtmlReport
    from dualfocus_ros.evaluation.results import Evaluation, Observation
    from dualfocus_ros.evaluation.settings import Settings
    from dualfocus_ros.evaluation.source import OpenSource

PICTURES = 6
NAME = "evaluate"
HELP = "score engines on recordings, focal stacks or data sets: per family of stacks and in total"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "source",
        type=Path,
        help="a rosbag2 recording, a folder <family>/<name>/ of stacks, or the folder of a published --dataset",
    )
    add_engines_arguments(parser, "side by side")
    parser.add_argument("--params", type=Path, metavar="FILE", help="parameters of the depth node, YAML")
    parser.add_argument(
        "-p", dest="assignments", action="append", default=[], metavar="NAME:=VALUE", help="one of them"
    )
    parser.add_argument(
        "--breathing",
        metavar="SOURCE",
        help="where the field of view of a slice comes from: auto, camera_info, thin_lens or none "
        "(camera_info: what meta.json says)",
    )
    add_residual_argument(parser, default=None)
    parser.add_argument("--bands", action="store_true", help="also show the errors by distance")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number, per stack, as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a report with pictures, one page")
    parser.add_argument("--pictures", type=int, metavar="N", help=f"stacks that it shows, {PICTURES} if not given")
    group = parser.add_argument_group("published data sets")
    group.add_argument("--dataset", default="", metavar="NAME", help="one of those of `dataset --list`")
    group.add_argument("--split", metavar="SPLIT", help="part of it; what the literature reports, if not given")
    _add_bag_arguments(parser.add_argument_group("recordings"))


def _add_bag_arguments(group: argparse._ArgumentGroup) -> None:
    add_topic_arguments(group)
    group.add_argument(
        "--tolerance", type=float, default=0.0, metavar="S", help="most that the stamps of depth and truth differ"
    )
    group.add_argument("--start", type=float, default=0.0, metavar="S", help="seconds to leave out at the start")
    group.add_argument("--end", type=float, metavar="S", help="seconds into it at which to stop")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; return the exit code."""
    import sys

    from dualfocus_ros.engine.pick import describe
    from dualfocus_ros.errors import ParameterError
    from dualfocus_ros.evaluation.html import HtmlReport
    from dualfocus_ros.evaluation.report import band_table, check_writable, remarks, text_table, write_json
    from dualfocus_ros.evaluation.results import in_common
    from dualfocus_ros.evaluation.settings import read_settings

    settings = read_settings(args.params, args.assignments)
    if args.engine and any(text.startswith("engine:=") for text in args.assignments):
        raise ParameterError("expected the engine once, got --engine and -p engine:=")
    asked = args.engine or [settings.engine or DEFAULT_ENGINE]
    if args.pictures is not None and args.html is None:
        raise ParameterError("expected --pictures only with --html: nothing else shows any")
    pictures = PICTURES if args.pictures is None else args.pictures
    report = HtmlReport(f"Depth of {args.source.name}", pictures) if args.html is not None else None
    for file in (args.json, args.html):
        if file is not None:
            check_writable(file)
    evaluations = []
    for name, engine in _engines(asked, args.model, settings.model):
        with _opened(args, settings) as source, engine:
            print(describe(engine, name), file=sys.stderr, flush=True)
            evaluations.append(_evaluate(engine, source, args, settings, report))
    evaluations = in_common(evaluations)
    # Files first: whoever reads the table may stop reading.
    if args.json is not None:
        write_json(args.json, evaluations, _settings_in_words(args, settings))
    if report is not None:
        report.write(args.html, evaluations, _settings_in_words(args, settings))
    print(text_table(evaluations))
    if args.bands and evaluations[0].stacks:
        print(f"\n{band_table(evaluations)}")
    if said := remarks(evaluations):
        print(f"\n{said}")
    return 0


def _settings_in_words(args: argparse.Namespace, settings: Settings) -> dict[str, str]:
    """Return what was chosen, by name."""
    chosen = {name: str(value) for name, value in settings.given.items()}
    for name in ("breathing", "residual", "start", "end", "tolerance"):
        if getattr(args, name):
            chosen[name] = str(getattr(args, name))
    return chosen


@contextmanager
def _opened(args: argparse.Namespace, settings: Settings) -> Iterator[OpenSource]:
    from dualfocus_ros.bags.topics import TopicNames
    from dualfocus_ros.evaluation.source import SourceOptions, open_source

    names = TopicNames(args.image_topic, args.camera_info_topic, args.lens_topic, args.truth_topic)
    options = SourceOptions(args.dataset, args.split, names, args.tolerance, args.start, args.end)
    with open_source(args.source, settings.buffer, options) as source:
        yield source


def _evaluate(
    engine: DepthEngine,
    source: OpenSource,
    args: argparse.Namespace,
    settings: Settings,
    report: HtmlReport | None,
) -> Evaluation:
    """Run one engine over the source, with a progress bar."""
    import math
    from dataclasses import replace

    from dualfocus_ros.evaluation.source import without_breathing
    from dualfocus_ros.evaluation.stacks import evaluate

    config = settings.estimator
    if args.residual is not None:
        config = replace(config, residual=args.residual)
    if not source.one_lens and "max_motion_px" not in settings.given:
        config = replace(config, max_motion_px=math.inf)  # one stack of a lens: to be judged, however it moved
    samples = source.samples
    if args.breathing is not None:
        config = replace(config, breathing=args.breathing)
    if args.breathing is not None or "breathing" in settings.given:
        samples = without_breathing(samples)
    with _progress(engine.name, source) as advance:

        def observe(observation: Observation) -> None:
            if report is not None:
                report.observe(observation)
            advance(observation)

        evaluation = evaluate(engine, samples, config, observe, one_lens=source.one_lens, look=source.look)
    return source.complete(evaluation)


@contextmanager
def _progress(name: str, source: OpenSource) -> Iterator[Callable[[Observation], None]]:
    """Show a bar on standard error; yield what to call with every stack."""
    import sys

    from tqdm import tqdm

    interval_s = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(
        total=source.total,
        desc=name,
        unit=source.unit,
        file=sys.stderr,
        mininterval=interval_s,
        ncols=_bar_columns(sys.stderr),
    ) as bar:

        def advance(observation: Observation) -> None:
            if observation.result is not None:
                bar.set_postfix_str(f"AbsRel {observation.result.metrics.abs_rel:.4f}", refresh=False)
            bar.update(source.done() - bar.n)

        yield advance
        bar.total = source.done()  # less than there is, where a part was asked for
        bar.update(source.done() - bar.n)
        bar.refresh()


def _bar_columns(stream: TextIO) -> int | None:
    """Return how wide the bar is to be, None where the terminal says it: some, as of containers, say 0."""
    import os

    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no terminal
        return None
    return None if columns else 80


def _engines(asked: list[str], model: str | None, default: str | None) -> list[tuple[str, DepthEngine]]:
    """Return every engine asked for once, with the name that asked; the model goes to those that take one.

    A model that was asked for and none takes is an error; the default of a parameter file is not.
    """
    from dualfocus_ros.engine.pick import make_engine, takes_model

    one_takes_it = any([takes_model(name) for name in asked])
    engines: dict[str, tuple[str, DepthEngine]] = {}
    for name in asked:
        takes_it = takes_model(name)
        wanted = (model or default) if takes_it else (None if one_takes_it else model)
        engine = make_engine(name, wanted, told_on_stderr())
        engines.setdefault(engine.name, (name, engine))
    return list(engines.values())
