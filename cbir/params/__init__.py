"""What may be set in ``params.yaml``, and with what type."""

from __future__ import annotations

from typing import Annotated, Literal

from PIL import ImageColor
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from cbir.errors import hint_at
from cbir.similarity import Similarity

_STRICT = ConfigDict(extra="forbid")
LateSignal = Literal["tower", "histogram", "patterns", "gabor"]
LossName = Literal[
    "info_nce",
    "sigmoid",
    "triplet_semihard",
    "triplet_hardest",
    "contrastive",
    "supervised_contrastive",
    "multi_similarity",
]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


def _check_colour(name: str) -> str:
    try:
        ImageColor.getrgb(name)
    except ValueError:
        hint = hint_at(name.lower(), ImageColor.colormap, otherwise="write a name such as white, or #rrggbb.", most=3)
        raise ValueError(f"{name} is no colour; {hint}") from None
    return name


Colour = Annotated[str, AfterValidator(_check_colour)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class IngestParams:
    """``image_size``: pixels, images are fitted into a square of it on ``background``.

    Pictures with a side under ``least_side`` pixels, or over ``max_pixels`` in all, go to quarantine.
    """

    image_size: int = Field(default=224, ge=32, le=1024)
    background: Colour = "white"
    least_side: int = Field(default=16, ge=1)
    max_pixels: int = Field(default=100_000_000, ge=1)
    shard_rows: int = Field(default=1000, ge=1)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ValidateParams:
    """``suite``: the file under ``expectations/`` to run, without its ending."""

    suite: str = "items"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SplitParams:
    """Fractions of the items; what is left is for training. ``phash_distance``: bits, 0 to 64.

    ``keep``: whether items stay where the split of an earlier run has them; without, the next split is drawn anew.
    """

    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    phash_distance: int = Field(default=4, ge=0, le=64)
    seed: Seed = 0
    keep: bool = True


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TowerParams:
    """``visual``: ``efficientnet-lite0`` to ``2``, ``torchvision/vgg16``, ``resnet50`` or ``inception_v3``, or
    ``open_clip/ARCHITECTURE``. ``text``: ``minilm-l6``, ``word-vectors``, ``open_clip/ARCHITECTURE``, or a sentence
    transformer's folder. The weights are a checkpoint's path, a pretrained tag, or "random"; see ``docs/training.md``.
    """

    visual: str = "efficientnet-lite0"
    visual_weights: str | None = None
    pooling: Literal["mean", "gem", "attention"] = "mean"
    text: str = "minilm-l6"
    text_weights: str | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FineTuneParams:
    """Of the towers themselves, before the fusion; ``epochs`` 0 leaves them frozen. See ``docs/training.md``.

    ``batch_size``: of all ranks together; ``micro_batch``: rows that a rank has in memory at once. ``tower_rate``: of
    a tower's last layers, ``layer_decay`` times that with every twelfth below. ``workers``: that decode, a rank.
    """

    epochs: int = Field(default=0, ge=0)
    batch_size: int = Field(default=256, ge=2)
    micro_batch: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    tower_rate: float = Field(default=1e-4, gt=0)
    layer_decay: float = Field(default=0.8, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Count | Literal["auto"] = 1
    hosts: int = Field(default=1, ge=1)
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    compile: bool = False
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainParams:
    """Frozen towers, closed-form heads, a trained fusion; see ``docs/encoder.md``.

    ``label_share_alone``, ``label_share_both``: length of a vector's label part where one modality is there, and where
    both are, beside an instance part of length 1; ``appearance_share_alone``, ``appearance_share_both``: of the part
    for what a picture looks like. ``late``: of signals of a picture that need no training, the score that each counts
    beside the encoder's 1; see ``cbir/late.py``.
    """

    dimensions: int = Field(default=512, ge=16, le=2048)
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=256, ge=8)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    loss: LossName = "info_nce"
    similarity: Similarity = "cosine"
    temperature: float = Field(default=0.07, gt=0)
    label_weight: float = Field(default=0.5, ge=0)
    relative_weight: float = Field(default=1.0, ge=0)
    label_share_alone: float = Field(default=0.3, ge=0)
    label_share_both: float = Field(default=1.5, ge=0)
    appearance_share_alone: float = Field(default=1.0, ge=0)
    appearance_share_both: float = Field(default=0.4, ge=0)
    late: dict[LateSignal, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EmbedParams:
    """``dimensions``: that the index stores, the first of the encoder's, which say most; null for all."""

    dimensions: int | None = Field(default=None, ge=8)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class EvaluateParams:
    """``k``: the cut-offs of hit@k, recall@k, precision@k and ndcg@k. ``seed``: of the bootstrap.

    ``slices``: ``label``, ``source``, ``has_caption``, ``size``, or any attribute of the items; one with fewer than
    ``least_queries`` queries is counted and not scored.
    """

    k: tuple[Count, ...] = Field(default=(1, 5, 10), min_length=1)
    slices: tuple[str, ...] = ("label", "has_caption", "size")
    least_queries: int = Field(default=20, ge=1)
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ReleaseParams:
    """``name``: of the model in the registry; letters, digits, ``_``, ``.``, ``-`` and spaces inside.

    ``keep``: how many of the newest releases `cbir-ops releases gc` leaves. ``commit``: whether `retrain` commits
    pointers and figures to git before it registers, so that `cbir-ops repro --verify` can make them again.
    """

    name: str = Field(default="cbir", pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_. -]*[A-Za-z0-9_])?$")
    keep: int = Field(default=5, ge=1)
    commit: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class GateParams:
    """What a release must show before it goes live; see ``docs/gate.md``.

    Metrics are named as in ``metrics.json``, dotted. ``protect``: metric -> by how much it may fall, at most.
    ``first_floor``: of a release that there is no champion to compare with; none given, a first release fails.
    ``least_clusters``: of how many clusters of queries a comparison is made at least.
    """

    require: Literal["superiority", "non_inferiority"] = "superiority"
    floor: dict[str, float] = Field(default_factory=dict)
    first_floor: dict[str, float] | None = None
    protect: dict[str, NonNegative] = Field(default_factory=dict)
    improve: tuple[str, ...] = ()
    level: float = Field(default=0.95, ge=0.5, lt=1)
    least_gain: float = Field(default=0.01, ge=0)
    least_clusters: int = Field(default=30, ge=2)
    slice_margin: float = Field(default=0.1, ge=0)
    fusion: tuple[str, ...] = ()
    fusion_margin: float = Field(default=0.0, ge=0)
    golden_margin: float = Field(default=0.0, ge=0)
    recall: float = Field(default=0.95, ge=0, le=1)
    filtered_recall: float = Field(default=0.95, ge=0, le=1)
    latency_ms: float = Field(default=1000.0, gt=0)
    leaks: int = Field(default=0, ge=0)
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ScheduleParams:
    """``cron``: when `cbir-ops deploy` retrains, five fields; ``timezone``: whose clock that is, an IANA name.

    ``name``: of the deployment; the workspace's folder, where there is none.
    """

    cron: str = "0 3 * * *"
    timezone: str = "UTC"
    name: str | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class NotifyParams:
    """``block``: what tells people of a run in Prefect, e.g. ``slack-webhook/team``; ``events``: of what it tells."""

    block: str | None = None
    events: tuple[Literal["promoted", "kept", "refused", "inconclusive", "failed"], ...] = (
        "promoted",
        "refused",
        "inconclusive",
        "failed",
    )


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SearchRange:
    """Where `cbir-ops tune` looks for a value: from ``low`` to ``high``, evenly or by ``log``, or among ``choices``."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[bool | int | float | str | None, ...] | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TuneParams:
    """``search``: parameter, as ``section.key``, -> where to look; see ``docs/tuning.md``.

    ``metric``: of the validation items, which the best trial has most of. ``seed``: of the values that are tried.
    """

    search: dict[str, SearchRange] = Field(default_factory=dict)
    metric: Literal["validation", "map", "hit@10"] = "validation"
    seed: Seed = 0


SECTIONS: dict[str, type] = {
    "ingest": IngestParams,
    "validate": ValidateParams,
    "split": SplitParams,
    "towers": TowerParams,
    "finetune": FineTuneParams,
    "train": TrainParams,
    "embed": EmbedParams,
    "evaluate": EvaluateParams,
    "release": ReleaseParams,
    "gate": GateParams,
    "tune": TuneParams,
    "schedule": ScheduleParams,
    "notify": NotifyParams,
}
