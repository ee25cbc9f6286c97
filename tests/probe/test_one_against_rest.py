"""Probes that tell a label from all others: what is found, whatever labels are called."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from support.probing import task_of

from deconstruct.config import ProbeConfig
from deconstruct.probe.curve import PER_CLASS, curve, drawn
from deconstruct.probe.fitting import on_all, on_few
from deconstruct.probe.representations import principal_axes
from deconstruct.probe.scores import Probe, Scores, prior
from deconstruct.probe.stage import Probing
from deconstruct.probe.tables import PROBES
from deconstruct.probe.task import Sample, Task
from deconstruct.probe.vectors import Vectors, moments

COUNT = 240
TRAIN = np.arange(COUNT) % 4 > 0
NAMES = ["ash", "elm", "fir", "oak", "yew"]


def planted(dimensions: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes [documents], and rows in which dimension 3 c + 1 is stronger in class c; the classes
    of the last are faint, so that k dimensions do not tell all equally well."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, len(NAMES), COUNT)
    rows = draw.gamma(1, 0.3, (COUNT, dimensions))
    for number in range(len(NAMES)):
        rows[truth == number, 3 * number + 1] += 3 - number / 2
    return truth, rows


def scored(
    task: Task, rows: np.ndarray, ks: tuple[int, ...] = (1, 2), **fields: object
) -> dict[tuple[int | None, str | None, str], tuple[float, float | None, float | None]]:
    """(k, label, metric) -> value and interval, of the rows."""
    probing = Probing(ProbeConfig.model_validate({"ks": ks, "bootstrap": 400, **fields}), task)
    probing.scores.add(Probe("majority", None), prior(task))
    probing.fit("latents", Vectors(rows[task.train], rows[task.test]))
    return {
        (row["k"], row["label"], row["metric"]): (row["value"], row["ci_low"], row["ci_high"])
        for row in probing.tables()[PROBES].to_pylist()
        if row["representation"] == "latents"
    }


def test_renamed_classes_change_no_score() -> None:
    """With turns by alphabet the first name's dimension was the only one that k = 1 read."""
    truth, rows = planted()
    found = []
    for names in (NAMES, NAMES[::-1], ["zoo", "a", "M", "9", "b"]):
        own = scored(task_of([[names[i]] for i in truth], TRAIN), rows)
        number = {name: i for i, name in enumerate(names)}
        found.append(
            {
                (k, None if label is None else number[label], metric): value
                for (k, label, metric), value in own.items()
            }
        )
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, value in found[0].items():
            assert other[key] == pytest.approx(value, abs=1e-9), key


def test_each_label_is_told_by_its_own_latent_alone() -> None:
    truth, rows = planted()
    rows[:, 4] += 2 * (truth == 1)  # as loud as the others
    found = scored(task_of([[NAMES[i]] for i in truth], TRAIN), rows, (1,))
    for name in NAMES[:4]:
        assert found[1, name, "auroc"][0] > 0.98
    assert found[1, None, "auroc"][0] > 0.95


def test_a_principal_axis_is_found_by_pca_and_not_by_random_directions() -> None:
    draw = np.random.default_rng(0)
    truth, width = draw.integers(0, 2, COUNT), 64
    axis = draw.standard_normal(width) / np.sqrt(width)
    rows = draw.standard_normal((COUNT, width)) + 2.5 * np.outer(2 * truth - 1, axis)
    rows *= np.geomspace(1, 1e4, width)  # loud dimensions are no axis of their own
    mean, inverse = moments(rows[TRAIN])
    rows = (rows - mean) * inverse
    task = task_of([["ab"[i]] for i in truth], TRAIN)
    pca = rows @ principal_axes(rows[task.train], 1)
    random = rows @ draw.standard_normal((width, 1))
    areas = [scored(task, one, ())[None, None, "auroc"][0] for one in (pca, random)]
    assert areas[0] > 0.98
    assert areas[1] < 0.8


def test_a_number_is_read_as_well_as_it_can_be() -> None:
    draw = np.random.default_rng(0)
    count = 2000
    train = np.arange(count) < 1000
    rows = draw.gamma(1, 1, (count, 20))
    number = 3 * rows[:, 7] + 2 * draw.standard_normal(count)
    noise = number - 3 * rows[:, 7]
    true = 1 - (noise[~train] ** 2).sum() / ((number[~train] - number[~train].mean()) ** 2).sum()
    task = task_of([[str(one)] for one in number], train, "number")
    found = scored(task, rows, (1,))
    for k in (1, None):
        value, low, high = found[k, None, "r2"]
        assert value == pytest.approx(true, abs=0.02)
        assert low is not None
        assert high is not None
        assert low < 9 / 13 < high
        assert 0.7 < found[k, None, "spearman"][0] < 0.85
    blind = scored(task, draw.gamma(1, 1, (count, 200)), (1,))
    for k in (1, None):
        value, low, high = blind[k, None, "r2"]
        assert value < 0.01  # and below 0 where it is: nothing is cut off
        assert low is not None
        assert low < 0


def test_lists_of_labels_are_told_one_by_one() -> None:
    draw = np.random.default_rng(0)
    has = draw.random((COUNT, 3)) < (0.5, 0.3, 0.2)
    rows = draw.gamma(1, 0.3, (COUNT, 12))
    rows[:, :3] += 2 * has
    labels = [[name for name, own in zip("xyz", row, strict=True) if own] for row in has]
    found = scored(task_of(labels, TRAIN, "multilabel"), rows, (1,))
    for metric in ("auroc", "average_precision", "micro_auroc", "micro_average_precision"):
        value, low, high = found[1, None, metric]
        assert value > 0.9
        assert low is None or high is None or low <= value <= high
    assert found[1, "x", "average_precision"][0] > 0.95
    assert (1, None, "accuracy") not in found


def test_shuffled_labels_score_as_chance_does() -> None:
    """Of 60 deals about 95% of the intervals cover chance: what is chosen, is chosen honestly."""
    truth, rows = planted(60)
    inside = dict.fromkeys((1, 5, None), 0)
    draw = np.random.default_rng(1)
    deals = 60
    for _ in range(deals):
        dealt = truth.copy()
        for side in (TRAIN, ~TRAIN):
            dealt[side] = draw.permutation(truth[side])
        task = task_of([[NAMES[i]] for i in dealt], TRAIN)
        vectors, folds, scores = (
            Vectors(rows[task.train], rows[task.test]),
            task.folds(0),
            Scores(task),
        )
        scores.add(Probe("majority", None), prior(task))
        scores.add(Probe("latents", None), on_all(vectors, task, folds).scores)
        for k, told in on_few(vectors, task, folds, [1, 5]):
            scores.add(Probe("latents", k), told)
        for row in scores.table(200, 0).to_pylist():
            if row["representation"] == "latents" and row["metric"] == "auroc" and not row["label"]:
                inside[row["k"]] += row["ci_low"] <= 0.5 <= row["ci_high"]
    for k, count in inside.items():
        assert 0.87 * deals <= count, (k, count)


def test_twins_stay_in_one_fold() -> None:
    truth, _ = planted()
    groups = np.arange(COUNT) // 3
    task = task_of([[NAMES[i]] for i in truth], np.arange(COUNT) < 180, groups=groups)
    folds = task.folds(0)
    assert sorted(np.concatenate([judge for _, judge in folds]).tolist()) == list(range(180))
    for fit, judge in folds:
        assert not set(task.train_groups[fit]) & set(task.train_groups[judge])
    alone = task_of([[NAMES[i]] for i in truth], np.arange(COUNT) < 180)
    for _, judge in alone.folds(0):  # and classes are dealt out
        sizes = alone.train_truth[judge].sum(0) * 3 - alone.train_truth.sum(0)
        assert (np.abs(sizes) <= 3).all()


def test_dimensions_are_chosen_for_their_label_by_its_spread() -> None:
    """A large mean does not make a dimension look steady, nor a loud one look telling."""
    draw = np.random.default_rng(0)
    truth = np.repeat([0.0, 1.0], 100)[:, None]
    rows = draw.standard_normal((200, 6))
    rows[:, 4] += 1.5 * truth[:, 0]
    rows[:, 2] *= 1000
    rows[:, 1] = (rows[:, 1] * 0.5 + 1e4).astype(np.float32)
    rows[:, 0] = 0.1
    [best] = Vectors(rows.astype(np.float32), rows).strongest(truth, [np.arange(200)], 6)
    assert best[0, 0] == 4
    assert best[0, -1] == 0
    gap = rows[100:].mean(0) - rows[:100].mean(0)
    pooled = np.sqrt((rows[100:].var(0) + rows[:100].var(0)) / 2)
    pooled[0] = np.inf
    assert best[0].tolist() == np.argsort(-np.abs(gap / pooled), kind="stable").tolist()


def test_the_curve_of_noise_is_flat_and_that_of_a_planted_label_rises() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, 900)
    train = np.arange(900) < 400
    task = task_of([["ab"[i]] for i in truth], train)
    noise = draw.standard_normal((900, 40))
    told = noise + 0.8 * truth[:, None] * (np.arange(40) < 8)
    means = {}
    for name, rows in (("noise", noise), ("told", told)):
        points = list(curve(Vectors(rows[task.train], rows[task.test]), task, 0))
        assert [(p.n, p.draw) for p in points] == [(n, d) for n in PER_CLASS for d in range(10)]
        means[name] = [np.mean([p.value for p in points if p.n == n]) for n in PER_CLASS]
    assert np.abs(np.array(means["noise"]) - 0.5).max() < 0.04
    assert (np.diff(means["told"]) > 0).all()
    assert means["told"][-1] > 0.9
    rows = drawn(task.train_truth, 5, (0, 5, 3))
    assert task.train_truth[rows].sum(0).tolist() == [5, 5]


class Listed:
    """What `Sample.of` reads of a corpus: documents numbered in an order, with digests."""

    def __init__(self, order: np.ndarray) -> None:
        self.order, self.facts = order, dict[str, object]()

    def rows(self, _: str, columns: list[str]) -> list[pa.Table]:
        digest = [f"{(one * 2654435761) % 2**32:016x}" for one in self.order.tolist()]
        split = ["test" if one % 5 == 0 else "train" for one in self.order.tolist()]
        whole = {"doc_key": digest, "split": split, "label": ["a"] * len(digest)}
        return [pa.table({name: whole[name] for name in columns})]


def test_no_more_documents_than_asked_for_are_read_whatever_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deconstruct.probe.task.group_ids", lambda _: np.arange(500))
    orders = (np.arange(500), np.random.default_rng(0).permutation(500))
    chosen = []
    for order in orders:
        sample = Sample.of(Listed(order), 60)  # type: ignore[arg-type]
        assert (len(sample.train), len(sample.test)) == (60, 60)
        assert (np.diff(sample.train) > 0).all()
        chosen.append([set(order[sample.train].tolist()), set(order[sample.test].tolist())])
    assert chosen[0] == chosen[1]


def test_scores_of_a_task_see_the_same_resamples() -> None:
    truth, rows = planted()
    task = task_of([[NAMES[i]] for i in truth], TRAIN)
    scores = Probing(ProbeConfig(), task).scores
    scores.add(Probe("majority", None), prior(task))
    same = rows[task.test][:, :5]
    scores.add(Probe("latents", None), same)
    scores.add(Probe("activations", None), same)
    table = scores.table(300, 0).to_pylist()
    [gap] = [row for row in table if row["metric"] == "accuracy_minus_activations"]
    assert (gap["value"], gap["ci_low"], gap["ci_high"]) == (0, 0, 0)


def test_intervals_draw_documents_that_hang_together_as_one() -> None:
    """Each document four times: the interval is that of a quarter as many."""
    truth, rows = planted()
    labels, fold = [[NAMES[i]] for i in truth], [np.repeat(x, 4, 0) for x in (rows, TRAIN)]
    groups = np.repeat(np.arange(COUNT), 4)
    repeated = [one for one in labels for _ in range(4)]
    width = {}
    for name, own in (("apart", None), ("grouped", groups)):
        found = scored(task_of(repeated, fold[1], groups=own), fold[0], (1,))
        _, low, high = found[1, None, "auroc"]
        assert low is not None
        assert high is not None
        width[name] = high - low
    assert width["grouped"] == pytest.approx(2 * width["apart"], rel=0.2)
