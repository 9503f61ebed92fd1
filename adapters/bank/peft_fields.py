"""Which fields and values of PEFT's `adapter_config.json` are known to compute what the bank computes.

PEFT adds fields and values with every release, and some of them change the backbone's own weights before training
begins: PiSSA, OLoRA, CorDA and LoRA-GA subtract what they start the LoRA with, LoftQ rounds. Such an adapter on the
unchanged backbone gives other numbers, and nothing in its shapes shows it. So what is harmless is listed here, and
everything else is refused by its name.

`refused_documents` is the entry point of the group `ulora.checks`. This module imports neither torch nor PEFT, because
`ulora verify` and `ulora doctor` use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from adapters.backbone.patches import MAX_LOADED, check_preprocessing
from adapters.bank.peft_values import check_values
from adapters.bundle import ADAPTER_CONFIG, ADAPTERS, BACKBONE, PREPROCESSING
from registry.errors import BadManifest, BadWeights
from registry.formats import canonical

COMPUTED: Final = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
    "layers_to_transform", "layers_pattern",
)  # fmt: skip
"""The fields that the bank computes with."""

_HARMLESS: Final = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_type", "peft_version",
    "revision", "runtime_config", "task_type", "ensure_weight_tying",
    # Used by PEFT only beside use_qalora and megatron_config, which are refused.
    "qalora_group_size", "megatron_core",
    # Used by PEFT only beside the value of init_lora_weights of their name; folders converted on saving keep them.
    "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip
"""Fields that say where an adapter comes from or how it was trained. With any value they change no number."""

HARMLESS_INITS: Final = ("gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that start the LoRA otherwise and leave the backbone as it is, as null, true and false
do (PEFT 0.21, `LoraLayer.update_layer`)."""

_CONVERTIBLE: Final = ("pissa", "olora", "corda", "lora_ga")
"""Values, or their beginnings, whose adapters PEFT can convert (`LoraModel._convert_state_dict_for_initial_model`)."""

_CONVERT = (
    "convert it where it was trained: model.save_pretrained(OUT, path_initial_model_for_weight_conversion=START), "
    "where START holds the adapter as it was saved before the training, with init_lora_weights=True in its config"
)
_TRAIN_AGAIN = "train it again with init_lora_weights=True"
_SHOWN = 80


def check_fields(document: Mapping[str, Any], path: str) -> None:
    """Check that a configuration is that of a LoRA or DoRA, and that every field and value is known to be harmless.

    Fields of later releases of PEFT are accepted only where they are off: null, false or empty.

    Args:
        path: its file, for messages.

    Raises:
        BadWeights: when it is not a LoRA (this is looked at first), its training changed the backbone's own weights,
            or a field has a value that this release does not know; the message names the field and the value.
    """
    method = document.get("peft_type")
    if method != "LORA":
        raise BadWeights(
            f"{path}: peft_type is {_text(method)}, not LORA: only LoRA and DoRA are read",
            hint="train it as a LoRA, or convert it there, if PEFT can: peft.save_as_lora(OUT, model, rank=…)",
        )
    _check_init(document.get("init_lora_weights"), path)
    for name, value in document.items():
        if name in COMPUTED or name in _HARMLESS or name == "init_lora_weights" or _is_off(name, value):
            continue
        raise BadWeights(
            f"{path}: {name[:_SHOWN]} is {_text(value)}, which this release does not support",
            hint=_TRAIN_AGAIN if name == "loftq_config" else "",
        )


def refused_documents(paths: Iterable[str], read: Callable[[str], bytes]) -> dict[str, str]:
    """The documents of a version that loading would refuse: adapters' configurations by their fields and values, and
    the preprocessing by the patches that it makes: path -> why.

    Args:
        paths: of all files of the version.
        read: gives the bytes of one of them.
    """
    there = frozenset(paths)
    found = _refused_preprocessing(read) if {PREPROCESSING, BACKBONE} <= there else {}
    for path in sorted(there):
        if is_config(path):
            try:
                document = canonical.decode(read(path), path)
                check_fields(document, path)
                check_values(document, path)
            except (BadManifest, BadWeights) as error:
                found[path] = str(error).removeprefix(f"{path}: ")
    return found


def _refused_preprocessing(read: Callable[[str], bytes]) -> dict[str, str]:
    try:
        config = canonical.decode(read(BACKBONE), BACKBONE).get("config")
        document = canonical.decode(read(PREPROCESSING), PREPROCESSING)
        check_preprocessing(document, config if isinstance(config, dict) else {}, MAX_LOADED)
    except BadManifest as error:
        return {PREPROCESSING: str(error)}
    return {}


def is_config(path: str) -> bool:
    """Whether a path in a bundle is that of an adapter's configuration."""
    return path.startswith(f"{ADAPTERS}/") and path.endswith(f"/{ADAPTER_CONFIG}") and path.count("/") == 2


def _check_init(value: object, path: str) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str) and value.lower() in HARMLESS_INITS:
        return
    named = isinstance(value, str) and value.lower().startswith(_CONVERTIBLE)
    is_known = named or value == "loftq"
    problem = "its training changed the backbone's own weights" if is_known else "this release does not know it"
    raise BadWeights(
        f"{path}: init_lora_weights is {_text(value)}: {problem}, so it would answer with other numbers here",
        hint=_CONVERT if named else _TRAIN_AGAIN,
    )


def _is_off(name: str, value: object) -> bool:
    """Whether a field says that something is not used, as PEFT writes it."""
    if name == "bias" and value == "none":
        return True
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _text(value: object) -> str:
    """A value from a document, short enough for a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
