"""Recipes: what decides a training run, and what makes a bundled model from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from edge_hands.errors import DataError


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. One of ``minutes`` and ``samples`` must be set."""

    model: str
    data: Sequence[str | Path] = ()  # FOLDER or FOLDER=SHARE of every batch
    validate: str | Path | None = None  # folder; the first of data that has val shards
    overrides: dict = field(default_factory=dict)  # of the model's config
    minutes: float | None = None
    samples: int | None = None
    batch: int = 64  # of all processes together
    lr: float = 2e-3
    offset_lr: float = 0.1  # times lr
    final_lr: float = 0.01  # times lr, where the cosine ends
    warmup: int = 150  # steps
    weight_decay: float = 0.01
    clip: float = 5.0
    ema: float = 0.999
    bf16: bool = True
    threads: int = 2  # of each process, on a CPU
    seed: int = 0
    log_every: int = 50  # steps
    validate_minutes: float = 4.0
    validate_count: int = 512
    checkpoint_minutes: float = 5.0
    augmentation: dict = field(default_factory=dict)
    loss: dict = field(default_factory=dict)

    @classmethod
    def from_dict(cls, settings: dict) -> Recipe:
        """From a recipe file's table. Raises DataError for a setting that does not exist or a missing budget."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise DataError(f"a recipe has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        recipe = cls(**settings)
        if isinstance(recipe.data, str | Path):
            raise DataError(f"data in a recipe is a list of folders, such as data = ['{recipe.data}']")
        if recipe.minutes is None and recipe.samples is None:
            raise DataError("a recipe needs a budget: give --minutes or --samples")
        return recipe

    def as_dict(self) -> dict:
        """What ``from_dict`` takes, of JSON's types."""
        validate = None if self.validate is None else str(self.validate)
        return {**asdict(self), "data": list(map(str, self.data)), "validate": validate}


@dataclass(frozen=True)
class DataPlan:
    """What ``edge-hands synth`` renders."""

    kind: str
    count: int
    val: int
    seed: int = 7


@dataclass(frozen=True)
class Plan:
    """A model from nothing: render, train in stages, quantise, export. ``quantize`` are settings of ``QatRecipe``.

    The stages of ``train`` go on with the weights of the one before, on the rendered shards and their own ``data``.
    """

    name: str
    data: DataPlan
    train: tuple[Recipe, ...]
    quantize: dict
    device: str = "linux-x86_64"
    runtimes: tuple[str, ...] = ()
    scan: str | None = None  # "portable", "native" or "both"; None: the device's choice
    count: int = 200  # samples of the gate


#: Where the plans of the bundled models are.
RECIPES = Path(__file__).with_name("recipes")


def read_toml(path: Path) -> dict:
    """Raises DataError when the file cannot be read or is not TOML."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read the recipe {path} ({error.strerror}); give a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not TOML ({error})") from error


def read_plan(name: str | Path, quick: bool = False) -> Plan:
    """The plan of that name in RECIPES, or of a TOML file; ``quick``: with its table of that name laid over it.

    Raises DataError for a name that is none, a file that is no plan, or a setting that does not exist.
    """
    path = Path(name) if str(name).endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in RECIPES.glob("*.toml")))
        raise DataError(f"there is no recipe {name}; expected a TOML file or one of {known}")
    content = read_toml(path)
    over = content.pop("quick", {})
    try:
        if quick:
            content = _laid_over(content, over)
        model, stages, export = content.pop("model"), content.pop("train"), content.pop("export", {})
        data, quantize = DataPlan(**content.pop("data")), content.pop("quantize", {})
        if content:
            raise DataError(f"{path}: a plan has no {', '.join(content)}; it has model, data, train, quantize, export")
        recipes = tuple(Recipe.from_dict({"model": model, **stage}) for stage in stages)
        return Plan(path.stem, data, recipes, quantize, **{**export, "runtimes": tuple(export.get("runtimes", ()))})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not the plan of a model ({error}); compare {RECIPES / 'landmarks.toml'}") from error


def _laid_over(content: dict, over: dict) -> dict:
    """Tables are joined, ``train`` with every stage; the rest is replaced."""
    merged = {**content}
    for key, value in over.items():
        if key == "train":
            merged[key] = [{**stage, **value} for stage in content[key]]
        else:
            merged[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return merged
