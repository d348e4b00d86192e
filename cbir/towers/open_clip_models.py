"""How a model of open_clip is built, by architecture and pretrained tag or local checkpoint."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from cbir.errors import TowerError, hint_at
from cbir.towers.names import RANDOM
from cbir.towers.weights import read_checkpoint

OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}  # which only checkpoints of OpenAI's carry
QUICK = "-quickgelu"
KEY = "towers.visual_weights (and towers.text_weights)"


@lru_cache(maxsize=1)  # the visual and the text tower are often of one model
def load_open_clip(name: str, *, weights: str | None) -> tuple[Any, dict[str, Any]]:
    """The model in eval mode, and how its pictures are normalised.

    ``weights``: a pretrained tag of open_clip (its hub must be in reach), a checkpoint's path, or "random".

    Raises:
        TowerError: no such architecture, weights that cannot be had, do not fit, or want another activation.
    """
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise TowerError(f"open_clip has no architecture {name!r}; {hint_at(name, open_clip.list_models())}")
    if weights is None:
        tags = open_clip.list_pretrained_tags_by_model(name)[:5]
        raise TowerError(
            f"open_clip/{name} needs weights: set {KEY} to a checkpoint's path, or to a tag ({', '.join(tags)}) "
            "where there is a network."
        )
    local = weights == RANDOM or Path(weights).exists()
    if not local and weights not in open_clip.list_pretrained_tags_by_model(name):
        known = open_clip.list_pretrained_tags_by_model(name)
        raise TowerError(
            f"{KEY}: {weights!r} is neither a file nor a tag of open_clip/{name}; {hint_at(weights, known)}"
        )
    options = {} if local else open_clip.get_pretrained_cfg(name, weights)
    _check_activation(name, config=config, wanted=bool(options.get("quick_gelu")), source=weights)
    if local:
        model = open_clip.create_model(name, load_weights=False)
        if weights != RANDOM:
            _load_checkpoint(model, Path(weights), name=name, config=config)
    else:
        model = _fetch(open_clip, name, weights, options=options)
    return model.eval(), {**open_clip.get_model_preprocess_cfg(model), **_pick_statistics(options)}


def _check_activation(name: str, *, config: dict[str, Any], wanted: bool, source: str) -> None:
    """OpenAI's weights were trained with QuickGELU; under GELU they load and are silently wrong (open_clip#771).

    Raises:
        TowerError: the architecture has the other activation.
    """
    if wanted and not config.get("quick_gelu", False):
        raise TowerError(
            f"{source} was trained with QuickGELU, open_clip/{name} has GELU and would be silently wrong; "
            f"use open_clip/{name.removesuffix(QUICK)}{QUICK}."
        )


def _load_checkpoint(model: Any, path: Path, *, name: str, config: dict[str, Any]) -> None:
    given = read_checkpoint(path)
    quick = bool(OPENAI_KEYS & set(given)) or "openai" in path.name.lower()
    _check_activation(name, config=config, wanted=quick, source=path.name)
    given = {key: tensor for key, tensor in given.items() if key not in OPENAI_KEYS}
    try:
        model.load_state_dict({key: tensor.float() for key, tensor in given.items()})
    except RuntimeError as error:
        raise TowerError(
            f"{path.name} is a checkpoint of another architecture than open_clip/{name} "
            f"({str(error).splitlines()[1].strip()[:200]}); see the section towers in params.yaml."
        ) from None


def _fetch(open_clip: Any, name: str, tag: str, *, options: dict[str, Any]) -> Any:
    try:
        return open_clip.create_model(name, pretrained=tag)
    except (OSError, RuntimeError) as error:
        places = [options[part] for part in ("hf_hub", "url") if options.get(part)]
        raise TowerError(
            f"The weights {tag!r} of open_clip/{name} cannot be fetched ({str(error).splitlines()[0]}); where there is "
            f"a network set HF_HUB_OFFLINE=0, or download {' or '.join(places)} elsewhere and set {KEY} to the file."
        ) from None


def _pick_statistics(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("mean", "std") if name in options}
